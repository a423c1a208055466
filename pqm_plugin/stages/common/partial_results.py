"""A decode on disk: what is to be decoded, each speaker's partial results, and their merging.

The merged files have the forms that ESPnet's and Kaldi's tools read.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from pqm_plugin.adapters.files import WEIGHTS, AdapterInfo, read_info
from pqm_plugin.errors import PqmError
from pqm_plugin.files import no_space_as_error, read_json, safe_name, write_json, write_text
from pqm_plugin.metrics.sclite import write_trn
from pqm_plugin.models.families import family_of
from pqm_plugin.records import answers
from pqm_plugin.stages.common.material import Material
from pqm_plugin.stages.common.opening import PACKED_KINDS, weights_file, weights_hash
from pqm_plugin.stages.common.systems import COPY, STOCK, System, adapter_of
from pqm_plugin.stages.recipe import Recipe
from pqm_plugin.words import WordList, check_spellable, read_words


@dataclass(frozen=True)
class Line:
    """One decoded utterance; `score` is a log probability in nats, None where the decoder gives none.

    `n_tokens` counts the tokens that were found, `mode` is how packed weights were computed with; 0 and empty in the
    files of earlier versions.
    """

    utterance: str
    text: str
    score: float | None
    audio_s: float
    decode_s: float
    peak_rss_bytes: int
    n_tokens: int = 0
    mode: str = ""

    @property
    def log_prob_per_token(self) -> float:
        """The score in nats a token, the end counted as one; minus infinity without a score."""
        return float("-inf") if self.score is None else self.score / (self.n_tokens + 1)


@dataclass(frozen=True)
class Part:
    """A speaker's words under one system: `lines` so far, and the utterances that are `missing`.

    On disk a line of JSON says what was asked for, then one line an utterance. A file that answers another request, or
    whose last line was cut off, counts as far as it is right.
    """

    path: Path
    request: Mapping[str, Any]
    lines: tuple[Line, ...]
    missing: list[str]

    @classmethod
    def read(cls, path: Path, request: Mapping[str, Any], utterances: Sequence[str]) -> Self:
        """What `path` holds of an answer to `request`, whose utterances are given."""
        request = json.loads(json.dumps(request))
        lines = _lines(path, request)
        done = {line.utterance for line in lines}
        return cls(path, request, lines, [name for name in utterances if name not in done])

    def start(self) -> None:
        """Rewrite the file with what is right in it, so that lines can be appended."""
        rows = [json.dumps({"request": self.request}), *(_row(line) for line in self.lines)]
        write_text(self.path, "".join(f"{row}\n" for row in rows))

    def append(self, line: Line) -> None:
        """Add a line at once, so that a killed job has lost one utterance at most."""
        with no_space_as_error(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(_row(line) + "\n")


def _row(line: Line) -> str:
    return json.dumps(asdict(line), ensure_ascii=False)


def _lines(path: Path, request: Any) -> tuple[Line, ...]:
    if not path.exists():
        return ()
    head, *rows = path.read_text(encoding="utf-8", errors="replace").split("\n")
    found = []
    try:
        if not answers(json.loads(head).get("request"), request):
            return ()
        for row in rows:
            found.append(Line(**json.loads(row)))
    except (json.JSONDecodeError, TypeError, AttributeError):
        # The line that a kill cut off, or the empty one at the end.
        pass
    return tuple(found)


@dataclass(frozen=True)
class DecodeTask:
    """The utterances of `split` of all `speakers`, by `system`; the words go to the folder of `set_name`."""

    recipe: Recipe
    system: System
    set_name: str
    split: str
    speakers: Sequence[str]

    @property
    def folder(self) -> Path:
        """Where everything of this decode is."""
        return self.recipe.decode_dir(self.system.key, self.set_name)

    def adapter(self, speaker: str) -> Path | None:
        """The adapter with which `speaker` is decoded, if the system has any."""
        return adapter_of(self.recipe, self.system, speaker, self.speakers)

    def adapter_weights(self, speaker: str) -> Path | None:
        """The weights file of `adapter`."""
        folder, adapter_set = self.adapter(speaker), self.system.adapter_set
        return None if folder is None else folder / (adapter_set.weights if adapter_set else WEIGHTS)

    def words(self, speaker: str) -> WordList | None:
        """The words that are expected of `speaker`; none of stock tools.

        Raises:
            PqmError: if the recipe's `words` are missing, damaged, or of no use to the model.
        """
        source = self.recipe.words
        if source is None or self.system.base_kind == STOCK:
            return None
        path = source / f"{safe_name(speaker)}.txt" if source.is_dir() else source
        if source.is_dir() and not path.is_file():
            return None
        words = read_words(path)
        family = family_of(self.recipe.base_dir)
        if not family.TAKES_WORDS:
            raise PqmError(f"--words {source}: a model of {family.NAME} cannot be told words: leave the option out")
        check_spellable(words, family.facts(self.recipe.base_dir).symbols, str(path))
        return words

    @property
    def joins_speakers(self) -> bool:
        """Whether utterances of several speakers can be searched together, each with its own adapter."""
        return self.system.adapter_set is None or not self.system.adapter_set.control

    def part(self, material: Material, speaker: str) -> Part:
        """What there is of a speaker's words; change anything that they depend on, and they are found anew."""
        utterances = material.utterances(self.split, speaker)
        kind = "full" if self.system.base_kind == STOCK else self.system.base_kind
        request = {
            "system": self.system.key,
            "weights_sha256": weights_hash(weights_file(self.recipe, kind)),
            "adapter_sha256": self._adapter_hash(speaker),
            "search": family_of(self.recipe.base_dir).search_options(self.recipe.config.decode),
            "utterances": material.digest(self.split, speaker),
            "device": self.recipe.device,
        }
        # Only where there are some: what was decoded without stays as it is.
        if words := self.words(speaker):
            request["words_sha256"] = words.digest
        path = self.folder / "parts" / f"{safe_name(speaker)}.jsonl"
        return Part.read(path, request, [utterance.utterance for utterance in utterances])

    def _adapter_hash(self, speaker: str) -> str:
        path = self.adapter_weights(speaker)
        if path is None:
            return ""
        if not path.is_file():
            stage = 4 if self.system.adapter == "sat" else 5
            raise PqmError(f"{path} is missing: run stage {stage} before decoding {self.system.key}")
        return weights_hash(path)


def merge(task: DecodeTask, material: Material) -> None:
    """Write `text`, `utt2spk`, `ref.trn`, `hyp.trn` and `run.json` of a decode; run.json last, it says all is there."""
    folder = task.folder
    lines: dict[str, Line] = {}
    speaker_of: dict[str, str] = {}
    for speaker in task.speakers:
        part = task.part(material, speaker)
        if part.missing:
            raise PqmError(f"{part.path}: {len(part.missing)} utterances are not decoded; run stage 6 again")
        lines |= {line.utterance: line for line in part.lines}
        speaker_of |= {line.utterance: speaker for line in part.lines}
    names = sorted(lines)
    references = _references(task, material)
    write_text(folder / "text", "".join(f"{name} {lines[name].text}".rstrip() + "\n" for name in names))
    write_text(folder / "utt2spk", "".join(f"{name} {speaker_of[name]}\n" for name in names))
    write_trn(folder / "ref.trn", {name: references[name] for name in names}, speaker_of)
    write_trn(folder / "hyp.trn", {name: lines[name].text for name in names}, speaker_of)
    facts = _facts(task, material, list(lines.values()))
    write_json(folder / "run.json", {"system": task.system.key, "set": task.set_name, **facts})


def _references(task: DecodeTask, material: Material) -> Mapping[str, str]:
    return {found.utterance: material.fit.apply(found.text) for found in material.utterances(task.split)}


def _facts(task: DecodeTask, material: Material, lines: Sequence[Line]) -> dict[str, Any]:
    family, search = family_of(task.recipe.base_dir), task.recipe.config.decode
    audio_s, decode_s = sum(line.audio_s for line in lines), sum(line.decode_s for line in lines)
    folders = [found for speaker in task.speakers for found in [task.adapter(speaker)] if found is not None]
    infos = [read_info(found) for found in folders]
    files = _adapter_files(task)
    return {
        "utterances": len(lines),
        "audio_s": audio_s,
        "decode_s": decode_s,
        "rtf": decode_s / audio_s,
        "peak_rss_bytes": max(line.peak_rss_bytes for line in lines),
        "model_bytes": _model_bytes(task),
        "adapter_bytes": max((path.stat().st_size for path in files), default=0),
        "adapter_fraction": max((info.parameters / info.base_parameters for info in infos), default=0.0),
        **_trainable(infos),
        "family": family.NAME,
        "search": family.search_options(search),
        "decoding": family.describe_search(search),
        "text_case": material.fit.case,
        "read_from": {path.as_posix(): weights_hash(path) for path in _weights(task)},
        "threads": 1,
        **({"words_sha256": words} if (words := _word_lists(task)) else {}),
        **(_modes(task, lines) if task.system.base_kind in PACKED_KINDS else {}),
        "command": _command(task),
    }


def _modes(task: DecodeTask, lines: Sequence[Line]) -> dict[str, Any]:
    """What was asked for, and, where lines say it, what they were computed with; more than one if it went on later."""
    used = sorted({line.mode for line in lines} - {""})
    return {"mode": task.recipe.mode, **({"modes_used": used} if used else {})}


def _trainable(infos: Sequence[AdapterInfo]) -> dict[str, Any]:
    """For a toolkit's own LoRA how many parameters it would have trained, how many were, and those of the base."""
    for info in infos:
        if info.toolkit_trains:
            counts = {"by_default": info.toolkit_trains, "frozen": info.parameters, "base": info.base_parameters}
            return {"trainable": counts}
    return {}


def _word_lists(task: DecodeTask) -> dict[str, str]:
    """Hash of the list of each speaker who has one."""
    lists = {speaker: task.words(speaker) for speaker in task.speakers}
    return {speaker: words.digest for speaker, words in lists.items() if words}


def _weights(task: DecodeTask) -> list[Path]:
    """The files whose bytes decide the words: change one, and the words are no longer those of what is there."""
    base = weights_file(task.recipe, "full" if task.system.base_kind == STOCK else task.system.base_kind)
    return [base, *_adapter_files(task)]


def _adapter_files(task: DecodeTask) -> list[Path]:
    return sorted({path for speaker in task.speakers for path in [task.adapter_weights(speaker)] if path is not None})


def _model_bytes(task: DecodeTask) -> int:
    """What all speakers share: nothing, where each has a whole model."""
    if task.system.adapter == COPY:
        return 0
    if task.system.base_kind != STOCK:
        return weights_file(task.recipe, task.system.base_kind).stat().st_size
    return int(read_json(min(task.folder.glob("stock/*/model_bytes"))))


def _command(task: DecodeTask) -> str:
    for path in sorted(task.folder.glob("stock/*/command")):
        return path.read_text(encoding="utf-8").strip()
    return task.recipe.command
