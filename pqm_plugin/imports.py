"""Import libraries late, and without the parts that are not used here."""

import contextlib
import importlib
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

_UNTOLD = {
    # Kernels that a hub would be asked for; bitsandbytes' own compute what is needed here.
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    # The options that `generate` itself adds to a model's configuration.
    "transformers.generation.utils": "Passing `generation_config` together with generation-related arguments",
}
"""What libraries log of themselves that no user can or need do anything about: by logger, how the message begins."""
_UNTOLD_WARNINGS = {"`is_gradient_checkpointing` is deprecated": FutureWarning}
"""The same of Python's warnings; this one is peft's, of transformers."""
_UNTOLD_LINES = ("Failed to import Flash Attention, using ESPnet default",)
"""The same of what they print while they are imported."""


_EXTRAS = {
    "train": ("torch", "torchaudio", "espnet", "espnet2", "espnet_model_zoo", "transformers", "peft", "bitsandbytes")
}
"""What is installed by which extra, where it is not said at the place that imports it."""


def extra_for(error: ModuleNotFoundError) -> str:
    """The command that installs what is missing; empty if it is of no extra."""
    top = (error.name or "").split(".")[0]
    return next((f"pip install 'pqm_plugin[{extra}]'" for extra, names in _EXTRAS.items() if top in names), "")


def silence() -> None:
    """Keep libraries from telling what does not matter to a user, see `_UNTOLD`; everything else is told."""
    for name, start in _UNTOLD.items():
        logger = logging.getLogger(name)
        if not any(isinstance(known, _Untold) for known in logger.filters):
            logger.addFilter(_Untold(start))
    for start, category in _UNTOLD_WARNINGS.items():
        warnings.filterwarnings("ignore", message=start, category=category)


class _Untold(logging.Filter):
    """Lets through what does not begin so."""

    def __init__(self, start: str) -> None:
        super().__init__()
        self._start = start

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self._start)


class _Untelling(io.TextIOBase):
    """Standard error without the lines of `_UNTOLD_LINES`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._begun = stream, ""

    def write(self, text: str) -> int:
        *whole, self._begun = (self._begun + text).split("\n")
        for line in whole:
            if not line.startswith(_UNTOLD_LINES):
                self._stream.write(line + "\n")
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def end(self) -> None:
        """Write what came without the end of its line."""
        self._stream.write(self._begun)
        self._stream.flush()


@contextmanager
def _untelling() -> Iterator[None]:
    if sys.stderr is None or isinstance(sys.stderr, _Untelling):
        yield
        return
    stream = _Untelling(sys.stderr)
    try:
        with contextlib.redirect_stderr(stream):
            yield
    finally:
        stream.end()


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


def import_now(names: Sequence[str]) -> None:
    """Import modules, and of a `module:name` the name, too, which `on_demand` would import later.

    What cannot be imported is passed over: where it is used, the error is told.
    """
    for module, _, name in (name.partition(":") for name in names):
        with contextlib.suppress(ImportError):
            found = importlib.import_module(module)
            if name:
                getattr(found, name)


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

    silence()
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
        with _untelling():
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
