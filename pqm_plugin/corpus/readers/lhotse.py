"""Manifests of lhotse: cuts, recordings with supervisions, or Shar folders, read with lhotse itself."""

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pqm_plugin.corpus.names import suggest
from pqm_plugin.corpus.readers._cuts import Cuts, Placed, in_a_line
from pqm_plugin.corpus.readers._rows import bad
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError

WHOLE = "own"
"""Name of the one set of a manifest that names none."""
_NAME = re.compile(
    r"(?:(?P<prefix>.+?)[_-])?(?P<kind>cuts|recordings|supervisions)(?:[_-](?P<part>.+?))?\.jsonl(?:\.gz)?"
)
_SHARD = "cuts.*.jsonl*"
_ENDINGS = (".jsonl", ".jsonl.gz")
_FORMS = "a manifest of cuts (.jsonl, .jsonl.gz), one of recordings beside one of supervisions, or a Shar folder"


@dataclass(frozen=True)
class _Files:
    """The manifests of one set: cuts or shards, or else recordings with supervisions."""

    cuts: Path | None = None
    recordings: Path | None = None
    supervisions: Path | None = None
    shards: Path | None = None

    @property
    def is_whole(self) -> bool:
        return bool(self.cuts or self.shards or (self.recordings and self.supervisions))


def is_manifest(corpus: Path) -> bool:
    """Whether `corpus` is a manifest of lhotse by its name, or a folder of such; lhotse is not needed to know."""
    if corpus.is_dir():
        try:
            return bool(_sets(corpus))
        except PqmError:
            return True
    return corpus.name.endswith(_ENDINGS)


def available_sets(corpus: Path) -> list[str]:
    """Return the sets by the names of the manifests (`cuts_SET.jsonl.gz`), `own` where they name none.

    Raises:
        PqmError: if `corpus` holds no manifest that is whole.
    """
    found = _sets(corpus)
    if not found:
        raise PqmError(f"{corpus} holds no manifest of lhotse: give with --corpus {_FORMS}")
    return sorted(found)


def read(corpus: Path, set_name: str) -> Iterator[Utterance]:
    """Yield the utterances of a set; one whose sound lies in no file carries its `problem`, see `read_made`.

    Raises:
        PqmError: if the set is not there, or a whole file cannot be read.
    """
    yield from read_made(corpus, set_name, None)


def read_made(corpus: Path, set_name: str, sounds: Path | None) -> Iterator[Utterance]:
    """Yield an utterance for each supervision.

    Sound that lies in a file is named there. What lhotse computes (speed, tempo, volume, resampling, mixing) or takes
    out of an archive is written to the folder `sounds`, once.

    Raises:
        PqmError: if the set is not there, a whole file cannot be read, or lhotse is not installed.
    """
    sets = available_sets_of(corpus)
    if set_name not in sets:
        raise PqmError(f"{corpus} has no set {set_name!r} ({suggest(set_name, sorted(sets))}): name it as --target_set")
    files = sets[set_name]
    folder = corpus if corpus.is_dir() else corpus.parent
    cuts = Cuts(folder, sounds)
    if files.shards:
        placed = _from_shards(files.shards)
    elif files.cuts:
        placed = _from_cuts(files.cuts)
    else:
        assert files.recordings and files.supervisions
        placed = _joined(files.recordings, files.supervisions)
    for each in placed:
        yield from [each] if isinstance(each, Utterance) else cuts.utterances(each)


def available_sets_of(corpus: Path) -> Mapping[str, _Files]:
    """The manifests of each set.

    Raises:
        PqmError: as `available_sets` does.
    """
    available_sets(corpus)
    return _sets(corpus)


def _sets(corpus: Path) -> dict[str, _Files]:
    if not corpus.exists():
        raise PqmError(f"{corpus} is missing: give with --corpus {_FORMS}")
    if corpus.is_file():
        return {WHOLE: _of_file(corpus)}
    if any(corpus.glob(_SHARD)):
        return {WHOLE: _Files(shards=corpus)}
    shards = {path.parent.name: _Files(shards=path.parent) for path in sorted(corpus.glob(f"*/{_SHARD}"))}
    return shards or _of_folder(corpus)


def _of_file(path: Path) -> _Files:
    """One manifest; of recordings or supervisions alone, the other one lies beside it under the same name."""
    name = _NAME.fullmatch(path.name)
    kind = _kind(path)
    if kind == "cuts":
        return _Files(cuts=path)
    other = "supervisions" if kind == "recordings" else "recordings"
    if name is None or name["kind"] != kind:
        raise PqmError(f"{path} holds {kind} alone: name it {kind}.jsonl.gz, with {other}.jsonl.gz beside it")
    start, end = path.name[: name.start("kind")], path.name[name.end("kind") :]
    beside = next((p for p in _spellings(path.parent / f"{start}{other}{end}") if p.is_file()), None)
    if beside is None:
        raise PqmError(f"{path} holds {kind} alone: put {start}{other}{end} beside it")
    return _Files(recordings=path, supervisions=beside) if kind == "recordings" else _Files(None, beside, path)


def _spellings(path: Path) -> tuple[Path, Path]:
    plain = path.with_name(path.name.removesuffix(".gz"))
    return path, plain if plain != path else path.with_name(f"{path.name}.gz")


def _of_folder(folder: Path) -> dict[str, _Files]:
    """Sets by what follows the kind in `PREFIX_KIND_SET.jsonl.gz`; cuts are taken before recordings."""
    found: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    for path in sorted(folder.iterdir()):
        if match := _NAME.fullmatch(path.name):
            found[match["prefix"] or "", match["part"] or ""][match["kind"]] = path
    parts = [part or prefix or WHOLE for prefix, part in found]
    sets = {}
    for (prefix, part), paths in found.items():
        name = part or prefix or WHOLE
        files = _Files(**paths)
        if files.is_whole:
            sets[name if parts.count(name) == 1 else "_".join(filter(None, (prefix, part)))] = files
    if found and not sets:
        lone = next(iter(next(iter(found.values())).values()))
        raise PqmError(f"{lone} has no counterpart: recordings need supervisions of the same name beside them, or cuts")
    return sets


def _kind(path: Path) -> str:
    """What the first line of a manifest is of."""
    for line, place in _lines(path):
        try:
            item = json.loads(line)
        except ValueError:
            item = None
        if not isinstance(item, dict):
            raise PqmError(f"{place} is no line of a manifest of lhotse: give with --corpus {_FORMS}")
        return "recordings" if "sources" in item else "cuts" if "type" in item else "supervisions"
    raise PqmError(f"{path} is empty: give with --corpus {_FORMS}")


def _lines(path: Path) -> Iterator[tuple[bytes, str]]:
    """Each line that holds something, and its place `file:line`."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield line, f"{path}:{number}"
    except (OSError, EOFError) as error:
        raise PqmError(f"{path} is damaged ({error}): copy it again") from error


def _items(path: Path) -> Iterator[tuple[Any, str]]:
    """What each line stands for in lhotse, with its place; for a line of no use, why, as an utterance."""
    serialization = library()
    for line, place in _lines(path):
        try:
            with in_a_line("lhotse cannot read this line", "write the manifest again"):
                item = serialization.deserialize_item(json.loads(line))
        except PqmError as error:
            item = bad(place, str(error))
        yield item, place


def library() -> Any:
    """lhotse's module of manifests.

    Raises:
        PqmError: if it is not installed.
    """
    try:
        import lhotse.serialization
    except ImportError as error:
        raise PqmError(
            f"manifests of lhotse are read with lhotse ({error}): pip install 'pqm_plugin[lhotse]'"
        ) from error
    return lhotse.serialization


def _from_cuts(path: Path) -> Iterator[Placed | Utterance]:
    for item, place in _items(path):
        if isinstance(item, Utterance):
            yield item
        elif not hasattr(item, "supervisions"):
            yield bad(place, f"is a {type(item).__name__}, not a cut: keep cuts in a manifest of their own")
        else:
            yield Placed(item, [place] * len(item.supervisions), place)


def _from_shards(folder: Path) -> Iterator[Placed | Utterance]:
    """The cuts of a Shar folder with their recordings; nothing else in it is opened."""
    library()
    from lhotse import CutSet

    cuts = sorted(folder.glob(_SHARD))
    tars = sorted([*folder.glob("recording.*.tar"), *folder.glob("recording.*.tar.gz")])
    fields = {"cuts": [str(path) for path in cuts], **({"recording": [str(path) for path in tars]} if tars else {})}
    if tars and len(tars) != len(cuts):
        raise PqmError(f"{folder} has {len(cuts)} shards of cuts and {len(tars)} of recordings: copy it again")
    with in_a_line(f"{folder} cannot be read by lhotse", "copy or write it again"):
        for cut in CutSet.from_shar(fields=fields):
            place = f"{folder}:{cut.id}"
            yield Placed(cut, [place] * len(cut.supervisions), place)


def _joined(recordings: Path, supervisions: Path) -> Iterator[Placed | Utterance]:
    """Every recording as a cut of its own with its supervisions."""
    known: dict[str, tuple[Any, str]] = {}
    for item, place in _items(recordings):
        if isinstance(item, Utterance):
            yield item
        elif not hasattr(item, "sources"):
            yield bad(place, f"is a {type(item).__name__}, not a recording")
        else:
            known[item.id] = item, place
    spoken: dict[str, list[tuple[Any, str]]] = defaultdict(list)
    for item, place in _items(supervisions):
        if isinstance(item, Utterance):
            yield item
        elif not hasattr(item, "recording_id") or hasattr(item, "sources"):
            yield bad(place, f"is a {type(item).__name__}, not a supervision")
        elif item.recording_id not in known:
            why = f"{item.id}: there is no recording {item.recording_id} in {recordings.name}"
            yield bad(place, why, item.id, item.speaker or "")
        else:
            spoken[item.recording_id].append((item, place))
    for name, (recording, place) in known.items():
        yield _whole(recording, spoken.get(name, []), place)


def _whole(recording: Any, spoken: Sequence[tuple[Any, str]], place: str) -> Placed:
    cut = recording.to_cut()
    cut.supervisions = [supervision for supervision, _ in spoken]
    return Placed(cut, [where for _, where in spoken], place)
