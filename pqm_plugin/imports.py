"""Imports of libraries: as late as they are needed, and without what they do for uses that this project has not."""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


def on_demand(places: Mapping[str, str], *, without: Sequence[str] = ()) -> Callable[[str], Any]:
    """The `__getattr__` of a module: it imports, by `quick_imports`, a name when it is first asked for.

    So a program loads the libraries of the model and the work that it has, and no others.

    Args:
        places: by name, the module that it is in.
        without: see `quick_imports`.
    """

    def found(name: str) -> Any:
        if name not in places:
            raise AttributeError(name)
        with quick_imports(without):
            return getattr(importlib.import_module(places[name]), name)

    return found


@contextmanager
def quick_imports(without: Sequence[str] = ()) -> Iterator[None]:
    """Within it typeguard's decorator and torch's compiler leave functions as they are.

    ESPnet lets typeguard parse and compile its constructors anew, which takes three quarters of its import, and
    bitsandbytes lets torch compile what it does with int8, which loads the whole compiler; so does what ESPnet keeps
    from being compiled.

    Args:
        without: libraries that are as if they were not installed.
    """
    import torch
    import typeguard

    places: list[tuple[Any, str]] = [
        (typeguard, "typechecked"),
        (torch, "compile"),
        (torch.compiler, "disable"),
        (torch, "_disable_dynamo"),
    ]
    kept = [getattr(module, name) for module, name in places]
    hidden = {name: sys.modules.get(name) for name in without}
    try:
        for module, name in places:
            setattr(module, name, _as_it_is)
        # What Python takes for a module that cannot be imported.
        sys.modules.update(dict.fromkeys(without))  # type: ignore[arg-type]
        yield
    finally:
        for (module, name), original in zip(places, kept, strict=True):
            setattr(module, name, original)
        for name, library in hidden.items():
            if library is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = library


def _as_it_is(target: Any = None, **options: Any) -> Any:
    """A decorator, with options or without."""
    return _as_it_is if target is None else target
