"""Replace the forward of modules for a while."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

Forward = Callable[..., Any]
_FORWARD, _MARK = "forward", "pqm_replaced_forward"


def replace_forward(module: nn.Module, forward: Forward | None) -> None:
    """Let `module` compute by `forward` from now on, or, with None, by that of its class again.

    An attribute of the instance hides the method of the class; it is not a parameter, a buffer or a module, so that
    neither `state_dict` nor `nn.Module` knows of it. The module is marked, see `is_replaced`.
    """
    values = vars(module)
    if forward is None:
        values.pop(_FORWARD, None)
        values.pop(_MARK, None)
    else:
        values[_FORWARD] = forward
        values[_MARK] = True


def is_replaced(module: nn.Module) -> bool:
    """Whether `module` computes by a forward that `replace_forward` gave it."""
    return _MARK in vars(module)


def hides_forward(module: nn.Module) -> bool:
    """Whether `module` computes by another forward than that of its class, whatever replaced it."""
    return _FORWARD in vars(module)


@contextmanager
def replaced_forwards(forwards: Iterable[tuple[nn.Module, Forward | None]]) -> Iterator[None]:
    """Within it each module computes by its forward, None being that of its class; then as it did before."""
    pairs = list(forwards)
    before = [(module, vars(module).get(_FORWARD), is_replaced(module)) for module, _ in pairs]
    try:
        for module, forward in pairs:
            replace_forward(module, forward)
        yield
    finally:
        for module, forward, marked in before:
            replace_forward(module, forward)
            if forward is not None and not marked:
                # Of some other library, which hid the method before.
                del vars(module)[_MARK]
