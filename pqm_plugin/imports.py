"""Imports of libraries without what they do meanwhile for uses that this project has not."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quick_imports() -> Iterator[None]:
    """Within it typeguard's decorator and torch's compiler leave functions as they are.

    ESPnet lets typeguard parse and compile its constructors anew, which takes three quarters of its import, and
    bitsandbytes lets torch compile what it does with int8, which loads the whole compiler.
    """
    import torch
    import typeguard

    places: list[tuple[Any, str]] = [(typeguard, "typechecked"), (torch, "compile")]
    kept = [getattr(module, name) for module, name in places]
    try:
        for module, name in places:
            setattr(module, name, _as_it_is)
        yield
    finally:
        for (module, name), found in zip(places, kept, strict=True):
            setattr(module, name, found)


def _as_it_is(target: Any = None, **options: Any) -> Any:
    """A decorator, with options or without."""
    return _as_it_is if target is None else target
