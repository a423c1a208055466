"""A personal model in memory: transcribe, and enrol speakers."""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pqm_plugin.adapters.bank import AdapterBank
from pqm_plugin.adapters.files import check_context
from pqm_plugin.corpus.recording import Sound, load_sound, sound_name
from pqm_plugin.errors import PqmError
from pqm_plugin.models.families import family_of
from pqm_plugin.models.interface import Hypothesis
from pqm_plugin.models.language import AUTO as AUTO_LANGUAGE
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal.clips import Clip
from pqm_plugin.personal.enrollment import Enrolled, Watch, enroll
from pqm_plugin.personal.folder import ModelFolder
from pqm_plugin.personal.hearing import Hearing, Listening, Search, Tongue
from pqm_plugin.personal.opening import Opened, mode_for, open_packed
from pqm_plugin.personal.options import EnrollOptions, enroll_options, in_language, search_options
from pqm_plugin.personal.pieces import may_hold_words
from pqm_plugin.personal.transcript import Segment
from pqm_plugin.quantize.modes import AUTO, MODES, check_mode
from pqm_plugin.words import WordList

_log = logging.getLogger(__name__)
__all__ = ["Hearing", "PersonalModel", "Search", "Tongue"]
_TELLING = 8  # recordings that the language of an enrolment is told by


class PersonalModel(Listening):
    """A packed base and the adapters of its speakers, from a folder of `pqm quantize`, `pqm unpack` or a recipe.

    See `hearing.Listening` for how it transcribes; torch computes it, so that it can be trained, too.
    """

    def __init__(
        self,
        path: str | Path,
        search: SearchOptions | None = None,
        device: str = "cpu",
        mode: str = "exact",
        language: str | None = None,
    ) -> None:
        """Open the model.

        Args:
            search: beam and weights of the search; by default what the model's maker set, see `about.json`.
            device: where torch computes, `cpu` or `cuda`.
            mode: `exact` keeps float32 weights in memory, `small` unpacks them at every use, with the same words;
                `auto` takes what fits, see `quantize.modes.pick_mode`, and logs it.
            language: of the speech, over that of `search`: a name or code, or `auto`, which a multilingual model finds
                in each recording.

        Raises:
            PqmError: if the folder holds no packed model, it is damaged, or it does not know `language`.
        """
        check_mode(mode, (*MODES, AUTO))
        self.folder = ModelFolder.of(path)
        self._search = in_language(self.folder, search or search_options(self.folder.about()), language)
        self._device = device
        self.mode = mode_for(self.folder, device) if mode == AUTO else mode
        self._alone = threading.RLock()
        self.reopen()

    def reopen(self) -> None:
        """Read the base anew, and forget the adapters in memory.

        Raises:
            PqmError: as opening it the first time does.
        """
        opened = open_packed(self.folder, self._search, self._device, self.mode)
        with self._alone:
            self._opened: Opened = opened
            self._bank = AdapterBank(opened.recognizer.network, opened.sha256)
            # Asked for now, before threads share the model: it may try the search out.
            self._max_batch = opened.recognizer.max_batch

    @property
    def recognizer(self) -> Any:
        """The recogniser of the model's family, see `models/interface.py:Recognizer`."""
        return self._opened.recognizer

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that the model can be told, sorted; none where it writes what it was trained on."""
        return family_of(self.folder.path).languages(self.folder.path)

    @property
    def language(self) -> str:
        """The code of the language of the speech where no other is named, or `auto`."""
        return self._search.language

    def _language(self, language: str | None) -> str:
        return in_language(self.folder, self._search, language).language

    def language_of(self, speech: Sequence[Any], folder: Path | None) -> str:
        """Code of the language of pieces, float32 (n_samples,) each, as it is told with the adapter in `folder`."""
        with self.using(folder, len(speech)), torch.no_grad():
            return self._opened.recognizer.language_of(speech)

    def search(
        self,
        speech: Sequence[Any],
        folders: Sequence[Path | None],
        language: str,
        words: WordList | None = None,
    ) -> list[Hypothesis]:
        """The best hypothesis of each piece, all searched in one batch, each with an adapter of its own.

        Args:
            speech: float32 (n_samples,) each at the model's rate, `max_batch` of them at most.
            folders: the adapter of each; None for none.
            language: the code of the language of all.
            words: expected in all of them, beside those that are kept with each adapter's speaker.

        Raises:
            PqmError: if an adapter is damaged or was made for another base, or the model cannot write a word.
        """
        lists = self._words(folders, words)
        with self._rows(folders), torch.no_grad():
            self._opened.recognizer.speak(language)
            return self._opened.recognizer.recognize(speech, lists)

    @property
    def max_batch(self) -> int:
        """Most pieces that `search` takes."""
        return self._max_batch

    @contextmanager
    def using(self, folder: Path | None, n_rows: int = 1) -> Iterator[None]:
        """Within it, the network computes batches of `n_rows` with the adapter in `folder`, or with none.

        Threads that share the model wait for each other here: it computes one batch at a time.
        """
        with self._rows([folder] * n_rows):
            yield

    @contextmanager
    def _rows(self, folders: Sequence[Path | None]) -> Iterator[None]:
        for folder in {folder for folder in folders if folder is not None}:
            check_context(folder, self._search.context)
        with self._alone, self._bank.rows(folders):
            yield

    def enroll(
        self,
        speaker: str,
        clips: Sequence[Sound],
        texts: Sequence[str] | None = None,
        *,
        sample_rate: int | None = None,
        channel: int | None = None,
        options: EnrollOptions | None = None,
        watch: Watch | None = None,
    ) -> Enrolled:
        """Enrol a speaker from recordings, and keep it in the model's folder as an ordinary PEFT adapter.

        A minute of speech is a good beginning, ten are better. The same recordings again: nothing is done. A run that
        was cut off goes on where it was.

        Args:
            speaker: a name that can be a folder's, see `files.safe_name`.
            clips: as `transcribe` takes them, each of one sentence or two, 30 seconds at most.
            texts: what is said in each; None trains on the model's own words where it is sure of them.
            sample_rate: of arrays, in Hz; default: the model's own.
            channel: of every clip, the one that is used, from 0; None averages all.
            options: default: what the model's maker set, see `about.json`.
            watch: is told how far it is, see `enrollment.Watch`.

        Raises:
            PqmError: if the name or the recordings are of no use, another process enrols the same speaker, or what
                was trained is no better than nothing.
        """
        options = options or enroll_options(self.folder.about())
        if texts is not None and len(texts) != len(clips):
            raise PqmError(f"{len(clips)} clips and {len(texts)} texts: give a text for each clip")
        ready = [
            Clip(
                _clip_name(clip, place),
                load_sound(clip, self.sample_rate, sample_rate, channel),
                texts[place] if texts else "",
            )
            for place, clip in enumerate(clips)
        ]
        search = self._search_for(ready)
        transcriber = _Listener(self, search.language) if texts is None else None
        return enroll(self.folder, speaker, ready, options, search, transcriber, self._device, watch)

    def _search_for(self, clips: Sequence[Clip]) -> SearchOptions:
        """The search in one language: where the model is to find it, that of the first recordings together."""
        speech = [clip.samples for clip in clips if may_hold_words(clip.samples, self.sample_rate)]
        if self._search.language != AUTO_LANGUAGE or not speech:
            return self._search
        pieces = [self._opened.recognizer.pieces(samples)[0] for samples in speech[:_TELLING]]
        language = self.language_of(pieces, self.adapter()[1])
        _log.info("language: %s, by %d recordings", language, len(pieces))
        return replace(self._search, language=language)

    def info(self) -> Mapping[str, Any]:
        """Sizes, hashes, licence and measured error rates, see `facts.facts`."""
        from pqm_plugin.personal.facts import facts

        return facts(self.folder)


@dataclass(frozen=True)
class _Listener:
    """A model that transcribes every recording in one language."""

    model: PersonalModel
    language: str

    @property
    def sample_rate(self) -> int:
        return self.model.sample_rate

    def segments(self, audio: Any, *, trimmed: bool) -> Iterator[Segment]:
        # The code is the model's own already; a family that has no choice is told nothing.
        tongue = Tongue(self.language)
        _, folder = self.model.adapter()
        for segment, _ in self.model._heard(self.model._pieces(audio), folder, tongue, trimmed):
            yield segment


def _clip_name(clip: Any, place: int) -> str:
    name = sound_name(clip)
    return f"clip {place + 1}" if name == "audio" else Path(name).name
