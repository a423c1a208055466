"""The systems that are compared, parsed from their keys (base, `+`, adapter), and the index of finished adapters."""

import bisect
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Self

from pqm_plugin.adapters.files import FORMAT_VERSION
from pqm_plugin.adapters.options import OWN_WEIGHTS, WEIGHTS
from pqm_plugin.errors import PqmError
from pqm_plugin.files import write_text
from pqm_plugin.models.families import FAMILIES, family_of
from pqm_plugin.records import request_hash
from pqm_plugin.stages.common.opening import BASE_KINDS, ROUNDED, trust_hash, weights_hash
from pqm_plugin.stages.recipe import Recipe

STOCK = "stock"
ADAPTERS = ("sat", "speaker", "other")
"""Those of the table, in its order."""
CHECKED = ("full", "nf4", "nf4+sat")
"""Systems for the control set, whose speakers have no adapters of their own."""
COPY = "copy"
TOOLKIT_LORAS = tuple(family.TOOLKIT_LORA for family in FAMILIES if family.TOOLKIT_LORA)
CONTROLS = {COPY: "copies", **{name: name for name in TOOLKIT_LORAS}}
"""What a speaker may have of the full-precision base beside an adapter, and the folder of each kind."""
_KINDS = "|".join(("sat", "speaker", "speaker-unsup", "other", *map(re.escape, CONTROLS)))
_ADAPTER = re.compile(rf"(?P<kind>{_KINDS})(?P<number>[1-9]\d*)?")
_NUMBERED = ("other", "speaker-unsup")


@dataclass(frozen=True)
class System:
    """`base_kind` is `stock` or one of `BASE_KINDS`.

    `adapter` is empty, `sat`, `speaker`, `other` (or `other2`: of the speaker two places on in the list, and so on),
    `speaker-unsup` (or `speaker-unsup2`: after two rounds, and so on), or, over the full-precision base, `copy` (every
    weight fine-tuned for the speaker) or one of `TOOLKIT_LORAS` (the LoRA of the family's own toolkit).
    """

    key: str
    base_kind: str
    adapter: str

    @property
    def kind(self) -> str:
        """The adapter without its number."""
        return self.adapter.rstrip("0123456789")

    @property
    def number(self) -> int:
        """How many places on in the list of speakers, or rounds."""
        return int(self.adapter[len(self.kind) :] or 1)

    @property
    def adapter_set(self) -> "AdapterSet | None":
        """What stage 5 makes for the system to decode with."""
        if self.kind in CONTROLS:
            return AdapterSet(self.base_kind, control=self.kind)
        if self.kind not in ("speaker", "other", "speaker-unsup"):
            return None
        return AdapterSet(self.base_kind, self.number if self.kind == "speaker-unsup" else 0)


@dataclass(frozen=True)
class AdapterSet:
    """The target speakers' adapters on one base: from transcripts (`rounds` 0), or from the model's own words.

    Where `control` is one of `CONTROLS`, they are such, from transcripts, instead of our adapters.
    """

    base_kind: str
    rounds: int = 0
    control: str = ""

    @property
    def from_sat(self) -> bool:
        """Whether they start from the speaker-independent adapter, if there is one; a toolkit's LoRA knows of none."""
        return self.control not in TOOLKIT_LORAS

    @property
    def weights(self) -> str:
        """Name of the weights file in a speaker's folder."""
        return OWN_WEIGHTS if self.control else WEIGHTS

    @property
    def folder(self) -> str:
        """Where they are, below the base's adapters."""
        if self.control:
            return CONTROLS[self.control]
        return f"speakers-unsup{_number(self.rounds)}" if self.rounds else "speakers"

    def root(self, recipe: Recipe) -> Path:
        """The folder that holds one adapter a speaker."""
        return recipe.adapter_dir(self.base_kind) / self.folder


def _number(value: int) -> str:
    return str(value) if value > 1 else ""


def parse_system(key: str, baselines: Iterable[str]) -> System:
    """Read a key of the systems table.

    Raises:
        PqmError: if base or adapter are not known.
    """
    if key in baselines:
        return System(key, STOCK, "")
    base_kind, plus, adapter = key.partition("+")
    found = _ADAPTER.fullmatch(adapter)
    numbered = found is not None and found["number"] is not None and found["kind"] not in _NUMBERED
    packed_control = base_kind != "full" and adapter in CONTROLS
    if base_kind not in BASE_KINDS or packed_control or (plus and (found is None or numbered)):
        raise PqmError(
            f"system {key!r} is not known: use {', '.join((*baselines, *BASE_KINDS))}, "
            f"the last {len(BASE_KINDS)} also with +{', +'.join(ADAPTERS)}, "
            f"+other2 …, +speaker-unsup, +speaker-unsup2 …, full also with +{', +'.join(CONTROLS)}"
        )
    return System(key, base_kind, adapter)


def systems(recipe: Recipe, baselines: Mapping[str, str], adapters: Sequence[str] = ADAPTERS) -> list[System]:
    """The systems of a recipe, by default those of the design's table that `adapters` allow.

    A calibrated recipe has one more, which shows what calibration is worth.
    """
    stock, *others = baselines
    rounded = [kind for kind in packed_kinds(recipe) if kind != "nf4"]
    keys = recipe.systems or (stock, "full", *others, *rounded, "nf4", *(f"nf4+{adapter}" for adapter in adapters))
    return [parse_system(key, baselines) for key in keys]


def packed_kinds(recipe: Recipe) -> list[str]:
    """The packed base kinds that the recipe's systems need, `nf4` always among them."""
    calibrated = recipe.config.quantize.calibrate > 0
    rounded = any(key.partition("+")[0] == ROUNDED for key in recipe.systems) if recipe.systems else calibrated
    return ["nf4", *([ROUNDED] if rounded else [])]


def possible_adapters(has_sat: bool, n_targets: int) -> list[str]:
    """The adapters that there can be: without SAT none of that name, and a single target has no other."""
    lacking = {"sat": not has_sat, "other": n_targets < 2}
    return [adapter for adapter in ADAPTERS if not lacking.get(adapter)]


def _adapted(recipe: Recipe) -> list[System]:
    keys = recipe.systems or tuple(f"nf4+{adapter}" for adapter in ADAPTERS)
    return [parse_system(key, ()) for key in keys if "+" in key]


def adapted_bases(recipe: Recipe) -> list[str]:
    """Base kinds for which the recipe's systems need an adapter: stage 4 makes their speaker-independent one."""
    wanted = {
        system.base_kind for system in _adapted(recipe) if system.adapter_set is None or system.adapter_set.from_sat
    }
    return [kind for kind in BASE_KINDS if kind in wanted]


def all_adapter_sets(recipe: Recipe) -> list[AdapterSet]:
    """What stage 5 makes for the recipe's systems; a second round needs the first."""
    rounds: dict[str, set[int]] = {kind: set() for kind in BASE_KINDS}
    wanted = {system.adapter_set for system in _adapted(recipe) if system.adapter_set}
    for adapter_set in wanted:
        if not adapter_set.control:
            rounds[adapter_set.base_kind] |= set(range(1, adapter_set.rounds + 1)) if adapter_set.rounds else {0}
    adapters = [AdapterSet(kind, number) for kind in BASE_KINDS for number in sorted(rounds[kind])]
    return adapters + sorted(
        (adapter_set for adapter_set in wanted if adapter_set.control), key=lambda adapter_set: adapter_set.control
    )


def check_toolkit(recipe: Recipe) -> None:
    """See that the base's toolkit has the LoRA that the recipe's systems name.

    Raises:
        PqmError: if there is no such system.
    """
    wanted = [system for system in _adapted(recipe) if system.adapter in TOOLKIT_LORAS]
    if wanted:
        family = family_of(recipe.base_dir)
        for system in wanted:
            if system.adapter != family.TOOLKIT_LORA:
                raise PqmError(f"--systems {system.key}: {family.NAME} models have no such LoRA; leave it out")


def adapter_of(recipe: Recipe, system: System, speaker: str, speakers: Sequence[str]) -> Path | None:
    """The folder of the adapter with which `system` decodes `speaker`; another speaker is one further on in the list.

    Raises:
        PqmError: if so far on in the list there is nobody else.
    """
    if system.adapter_set is None:
        return recipe.adapter_dir(system.base_kind) / "sat" if system.adapter else None
    if system.kind != "other":
        return system.adapter_set.root(recipe) / speaker
    if len(speakers) <= system.number:
        n = "at least two" if system.number == 1 else f"more than {system.number}"
        raise PqmError(f"{system.key}: another speaker's adapter needs {n} target speakers")
    place = bisect.bisect_left(speakers, speaker)
    if speakers[place : place + 1] != [speaker]:
        # They need not be sorted, but for thousands it is as well that they are.
        place = speakers.index(speaker)
    return system.adapter_set.root(recipe) / speakers[(place + system.number) % len(speakers)]


INDEX = "index.tsv"
_HEADER = ("speaker", "request", "weights_sha256", "weights_bytes", "changed_ns")


@dataclass(frozen=True)
class Row:
    """An adapter that is done: the hash of its request, and its weights file as it was then."""

    speaker: str
    request: str
    sha256: str
    size_bytes: int
    changed_ns: int

    @classmethod
    def of(cls, folder: Path, request: Mapping[str, Any], weights: str = WEIGHTS) -> Self:
        """The row of an adapter's folder, which is done; `weights` is the name of the file in it."""
        path = folder / weights
        status = path.stat()
        return cls(folder.name, _hash_of(request), weights_hash(path), status.st_size, status.st_mtime_ns)

    def line(self) -> str:
        """As it stands in a file."""
        return "\t".join(str(value) for value in astuple(self)) + "\n"


class AdapterIndex:
    """The rows of the adapters below `root`, by speaker.

    One process reads and writes `index.tsv`, whole; jobs append rows to journals of their own, `log/*.done`, which it
    takes in when they have ended, or at its next start. A row counts as long as the weights file is there as the row
    has it, so the worst that a lost, broken or old index can do is that folders are opened.
    """

    def __init__(self, root: Path, weights: str = WEIGHTS) -> None:
        """Read what is known of the folders below `root`, each with a file named `weights`."""
        self._root = root
        self._weights = weights
        self._path = root / INDEX
        rows, n_broken = _read([self._path])
        self._rows = {row.speaker: row for row in rows}
        self._as_written = None if n_broken else dict(self._rows)
        if n_broken:
            logging.warning("%s has %d broken lines, which are left out", self._path, n_broken)
        self._folders = {entry.name for entry in os.scandir(root)} if root.is_dir() else set[str]()
        self.take_in()

    def holds(self, speaker: str, request: Mapping[str, Any]) -> bool:
        """Whether the speaker's adapter is known to answer this request; if not, its folder says more."""
        row = self._rows.get(speaker)
        return row is not None and row.request == _hash_of(request) and self._stands(row)

    def has_folder(self, speaker: str) -> bool:
        """Whether there was a folder of that name when the index was read."""
        return speaker in self._folders

    def has_checkpoints(self) -> bool:
        """Whether there were files of trainings that had not ended when the index was read."""
        return any(name.endswith(".train") for name in self._folders)

    def add(self, row: Row) -> None:
        """Take in an adapter that is done."""
        self._rows[row.speaker] = row

    def take_in(self) -> None:
        """Read what jobs noted, write the index if it changed, and remove the journals."""
        journals = sorted((self._root / "log").glob("*.done"))
        for row in _read(journals)[0]:
            self._rows[row.speaker] = row
        if self._rows != self._as_written and self._root.is_dir():
            lines = ["\t".join(_HEADER) + "\n", *(self._rows[name].line() for name in sorted(self._rows))]
            write_text(self._path, "".join(lines))
            self._as_written = dict(self._rows)
        for journal in journals:
            journal.unlink(missing_ok=True)

    def trust(self) -> None:
        """Let `weights_hash` take the hashes from here while the files stay the same."""
        for row in self._rows.values():
            trust_hash(self._root / row.speaker / self._weights, row.size_bytes, row.changed_ns, row.sha256)

    def _stands(self, row: Row) -> bool:
        if row.speaker not in self._folders:
            return False
        try:
            status = os.stat(f"{self._root}/{row.speaker}/{self._weights}")
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (row.size_bytes, row.changed_ns)


def _hash_of(request: Mapping[str, Any]) -> str:
    """An adapter of another format version is not done, whatever the index of that version says."""
    return request_hash({"format_version": FORMAT_VERSION, **request})


def trust_adapters(recipe: Recipe) -> None:
    """Let `weights_hash` take the hashes of all speakers' adapters from their index."""
    for adapter_set in all_adapter_sets(recipe):
        AdapterIndex(adapter_set.root(recipe), adapter_set.weights).trust()


def _read(paths: Iterable[Path]) -> tuple[list[Row], int]:
    """The rows of some files, and how many lines are none."""
    rows, n_broken = [], 0
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        for line in text.splitlines():
            fields = line.split("\t")
            if tuple(fields) == _HEADER:
                continue
            if len(fields) == len(_HEADER) and fields[3].isdecimal() and fields[4].isdecimal():
                rows.append(Row(fields[0], fields[1], fields[2], int(fields[3]), int(fields[4])))
            else:
                n_broken += 1
    return rows, n_broken
