"""A personal model that hears through ONNX Runtime, and the choice between it and torch."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pqm_plugin.adapters.files import check_context
from pqm_plugin.errors import PqmError
from pqm_plugin.imports import extra_for
from pqm_plugin.models.interface import Hypothesis
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal.folder import ModelFolder
from pqm_plugin.personal.hearing import Listening
from pqm_plugin.personal.options import search_options
from pqm_plugin.runtime import processor
from pqm_plugin.runtime.opening import open_runtime
from pqm_plugin.runtime.weights import Lora, NotHereError, read_lora
from pqm_plugin.words import WordList

_log = logging.getLogger(__name__)
AUTO, ONNX, TORCH = "auto", "onnx", "torch"
RUNTIMES = (AUTO, ONNX, TORCH)
_HELD = 8  # adapters that are kept in memory


class RuntimeModel(Listening):
    """A packed base and its adapters, as graphs that ONNX Runtime computes on a CPU; torch is not imported.

    See `hearing.Listening` for how it hears. It cannot learn: `PersonalModel` does.
    """

    def __init__(
        self,
        path: str | Path,
        search: SearchOptions | None = None,
        language: str | None = None,
        *,
        whole: bool = False,
        n_threads: int = 0,
    ) -> None:
        """Build the graphs from the packed weights.

        Args:
            search: beam and weights of the search; by default what the model's maker set, see `about.json`.
            language: of the speech, over that of `search`: a name or code, or `auto`.
            whole: compute products in float32 instead of 8 bits.
            n_threads: 0 for as many as there are cores.

        Raises:
            NotHereError: if there are no graphs for such a model.
            PqmError: if the folder holds no packed model, it is damaged, or it does not know `language`.
        """
        self.folder = ModelFolder.of(path)
        self._sha256 = self.folder.intact()
        search = search or search_options(self.folder.about())
        if search.guard == "auto":
            search = replace(search, guard="always")
        self._context = search.context
        self._recognizer = open_runtime(self.folder.path, search, whole=whole, n_threads=n_threads)
        self._spoken = self._recognizer.known_language(language, search.language)
        self._held: OrderedDict[Path, Lora] = OrderedDict()
        self._alone = threading.RLock()

    @property
    def recognizer(self) -> Any:
        """The model's graphs and search."""
        return self._recognizer

    def _language(self, language: str | None) -> str:
        found: str = self._recognizer.known_language(language, self._spoken)
        return found

    @property
    def max_batch(self) -> int:
        """Most pieces that `search` takes."""
        return int(self._recognizer.max_batch)

    def language_of(self, speech: Sequence[Any], folder: Path | None) -> str:
        """Code of the language of pieces, float32 (n_samples,) each, as it is told with the adapter in `folder`."""
        with self._alone:
            found: str = self._recognizer.language_of(speech, self._adapters([folder] * len(speech)))
            return found

    def search(
        self,
        speech: Sequence[Any],
        folders: Sequence[Path | None],
        language: str,
        words: WordList | None = None,
    ) -> list[Hypothesis]:
        """The best hypothesis of each piece, all in one batch, see `Listening.search`."""
        lists = self._words(folders, words)
        with self._alone:
            self._recognizer.speak(language)
            found: list[Hypothesis] = self._recognizer.recognize(speech, self._adapters(folders), lists)
            return found

    def _adapters(self, folders: Sequence[Path | None]) -> list[Lora]:
        if not any(folders):
            return []
        return [Lora({}) if folder is None else self._adapter(folder) for folder in folders]

    def _adapter(self, folder: Path) -> Lora:
        if folder not in self._held:
            check_context(folder, self._context)
            self._held[folder] = read_lora(folder, self._sha256)
        self._held.move_to_end(folder)
        while len(self._held) > _HELD:
            self._held.popitem(last=False)
        return self._held[folder]


def open_hearing(
    path: str | Path,
    search: SearchOptions | None = None,
    device: str = "cpu",
    language: str | None = None,
    runtime: str = AUTO,
    n_threads: int = 0,
) -> Listening:
    """A personal model to hear with, by ONNX Runtime where it can, else by torch; the log says so.

    Args:
        runtime: `auto`, or `onnx` or `torch` for this one alone.
        n_threads: of either; 0 for as many as there are cores.

    Raises:
        PqmError: as `PersonalModel`, or if the runtime that was asked for cannot compute the model here.
    """
    if runtime not in RUNTIMES:
        raise PqmError(f"runtime {runtime!r}: use {', '.join(RUNTIMES)}")
    why = "it computes on a CPU alone" if device != "cpu" else processor.obstacle()
    if not why and runtime != TORCH:
        try:
            return RuntimeModel(path, search, language, n_threads=n_threads)
        except NotHereError as error:
            why = f"no graphs for {error}"
    if runtime == ONNX:
        raise PqmError(f"{path}: ONNX Runtime cannot compute it here ({why}): leave --runtime out, torch may")
    if runtime == AUTO and device == "cpu":
        _log.info("torch computes %s: %s", path, why)
    return _by_torch(path, search, device, language, n_threads)


def _by_torch(
    path: str | Path, search: SearchOptions | None, device: str, language: str | None, n_threads: int
) -> Listening:
    try:
        import torch

        from pqm_plugin.personal.model import PersonalModel
    except ModuleNotFoundError as error:
        raise PqmError(
            f"{path}: {error.name} is not installed, and only torch can compute this model: "
            f"{extra_for(error) or f'pip install {error.name}'}"
        ) from error
    if n_threads > 0:
        torch.set_num_threads(n_threads)
    return PersonalModel(path, search, device, language=language)
