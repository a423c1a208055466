"""Who adapts, who teaches and what is decoded: the speaker partition."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import cached_property
from pathlib import Path

from pqm_plugin.corpus.names import join_first, suggest
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.files import decode_text, write_text

SPLITS = ("train", "dev", "test")
SAT_SPLITS = ("sat_train", "sat_dev")
CHECK_SPLIT = "check"
_SAT_DEV_SHARE = 0.15
_HEADER = ("utterance", "speaker", "set", "split")

Sets = Mapping[str, Sequence[Utterance]]
_Entry = tuple[str, str, str]  # utterance, speaker, set


@dataclass(frozen=True)
class Row:
    """One line of `partition.tsv`."""

    utterance: str
    speaker: str
    set: str
    split: str


@dataclass(frozen=True)
class Partition:
    """Rows sorted by split, then by name as under `LC_ALL=C`; `left_out` tells why a speaker has none."""

    rows: tuple[Row, ...]
    left_out: dict[str, str] = field(default_factory=dict)

    def utterances(self, split: str, speaker: str | None = None) -> list[str]:
        """Return the names of a split's utterances, of one speaker or of all."""
        by_speaker = self._names.get(split, {})
        if speaker is not None:
            return list(by_speaker.get(speaker, ()))
        return [row.utterance for row in self.rows if row.split == split]

    def speakers(self, split: str) -> list[str]:
        """Return the speakers of a split, sorted."""
        return sorted(self._names.get(split, ()))

    @cached_property
    def _names(self) -> dict[str, dict[str, list[str]]]:
        """Names of utterances by split and speaker: to look through all rows for each speaker takes hours."""
        found: dict[str, dict[str, list[str]]] = {}
        for row in self.rows:
            found.setdefault(row.split, {}).setdefault(row.speaker, []).append(row.utterance)
        return found

    def write(self, path: Path) -> None:
        """Write the rows under a header line, tab-separated, unless they stand there already; without `left_out`."""
        lines = ["\t".join(_HEADER), *("\t".join(astuple(row)) for row in self.rows)]
        text = "".join(f"{line}\n" for line in lines)
        if not path.is_file() or path.read_bytes() != text.encode():
            write_text(path, text)

    @classmethod
    def read(cls, path: Path) -> "Partition":
        """Read what `write` wrote.

        Raises:
            PqmError: if the file is missing, and on the first line that is not a row.
        """
        try:
            lines = decode_text(path.read_bytes(), path).removesuffix("\n").split("\n")
        except FileNotFoundError:
            raise PqmError(f"{path} is missing: run stage 1 first") from None
        if tuple(lines[0].split("\t")) != _HEADER:
            raise PqmError(f"{path}:1: the header is not {' '.join(_HEADER)!r}, tab-separated: run stage 1 again")
        rows = []
        for number, line in enumerate(lines[1:], start=2):
            fields = line.split("\t")
            if len(fields) != 4 or fields[3] not in (*SPLITS, *SAT_SPLITS, CHECK_SPLIT):
                raise PqmError(f"{path}:{number}: {line[:80]!r} is not a row of a partition: run stage 1 again")
            rows.append(Row(*fields))
        _check_unique(rows)
        return cls(tuple(rows))


def paper_split(utterance_ids: Iterable[str]) -> dict[str, list[str]]:
    """Split one speaker's utterances: sorted as strings, first 40 % train, last 40 % test, the middle dev.

    Source: the data partition published with arXiv 2309.09136; exact for all ten of its LibriSpeech readers.
    """
    ordered = sorted(utterance_ids)
    n_outer = round(0.4 * len(ordered))
    last = len(ordered) - n_outer
    return {"train": ordered[:n_outer], "dev": ordered[n_outer:last], "test": ordered[last:]}


SPLIT_RULES: dict[str, Callable[[Iterable[str]], dict[str, list[str]]]] = {"paper": paper_split}


def make_partition(
    targets: Sets,
    sat: Sets,
    speakers: Sequence[str] | None = None,
    check: Sets | None = None,
    min_utterances: int = 5,
    split_rule: str = "paper",
) -> Partition:
    """Split target speakers within themselves, and whole SAT speakers into training and dev.

    Arguments map a set's name to its utterances. `speakers` chooses among the target speakers, None takes all. Left out
    and named in `left_out`: a target speaker with fewer than `min_utterances`, and a SAT speaker who is a target.
    The last 15 % of the sorted SAT speakers, at least one, are `sat_dev`. `check` is taken as it is.

    Raises:
        PqmError: on an unknown speaker or rule, when no target is left, when fewer than two SAT speakers are left,
            and when one utterance would stand in two rows.
    """
    if split_rule not in SPLIT_RULES:
        raise PqmError(f"split rule {split_rule!r} is not known ({suggest(split_rule, SPLIT_RULES)}): name one of them")
    by_target = _by_speaker(targets)
    chosen = _choose(by_target, speakers)
    left_out = {
        speaker: f"target with {len(by_target[speaker])} utterances, fewer than the {min_utterances} that a split needs"
        for speaker in chosen
        if len(by_target[speaker]) < min_utterances
    }
    kept = [speaker for speaker in chosen if speaker not in left_out]
    if not kept:
        raise PqmError(
            f"no target speaker has {min_utterances} utterances ({join_first(left_out)}): name other speakers"
        )
    rows = [row for speaker in kept for row in _split_speaker(by_target[speaker], SPLIT_RULES[split_rule])]
    return with_teachers(rows, chosen, sat, check, left_out)


def with_teachers(
    target_rows: Sequence[Row], targets: Sequence[str], sat: Sets, check: Sets | None, left_out: dict[str, str]
) -> Partition:
    """Add SAT and control rows to those of the target speakers; `targets` are all who must not teach.

    Raises:
        PqmError: when fewer than two SAT speakers are left, and when one utterance would stand in two rows.
    """
    rows = list(target_rows)
    if sat:
        rows += _sat_rows(_without_targets(_by_speaker(sat), targets, left_out), left_out)
    rows += [Row(*row[:3], CHECK_SPLIT) for group in _by_speaker(check or {}).values() for row in group]
    _check_unique(rows)
    order = {split: place for place, split in enumerate((*SPLITS, *SAT_SPLITS, CHECK_SPLIT))}
    return Partition(tuple(sorted(rows, key=lambda row: (order[row.split], row.utterance))), left_out)


def every_second_speaker(utterances: Iterable[Utterance], min_utterances: int = 5) -> list[str]:
    """Choose the targets where one set is to serve both parts: the second, fourth, … speaker by name.

    Only speakers with `min_utterances` count; the others, and every first of two, are left for SAT.

    Raises:
        PqmError: if there are not two such speakers.
    """
    counts = Counter(utterance.speaker for utterance in utterances)
    chosen = sorted(speaker for speaker, count in counts.items() if count >= min_utterances)[1::2]
    if not chosen:
        raise PqmError(
            f"fewer than two speakers have {min_utterances} utterances, so nobody is left for SAT: add recordings of "
            "others, or do without SAT: --sat_sets ''"
        )
    return chosen


def _by_speaker(sets: Sets) -> dict[str, list[_Entry]]:
    """Map each speaker to `(utterance, speaker, set)` of all sets."""
    found: dict[str, list[_Entry]] = {}
    for set_name, utterances in sets.items():
        for utterance in utterances:
            entry = (utterance.utterance, utterance.speaker, set_name)
            found.setdefault(utterance.speaker, []).append(entry)
    return found


def _choose(known: Mapping[str, object], speakers: Sequence[str] | None) -> list[str]:
    if speakers is None:
        return sorted(known)
    if not speakers:
        raise PqmError("the list of speakers is empty: name some, or leave the option out to take all")
    unknown = sorted(set(speakers) - known.keys())
    if unknown:
        hints = "; ".join(f"{speaker} ({suggest(speaker, known)})" for speaker in unknown)
        raise PqmError(f"no such speaker in the target set: {hints}: correct --speakers")
    return sorted(set(speakers))


def _split_speaker(entries: list[_Entry], rule: Callable[[Iterable[str]], dict[str, list[str]]]) -> list[Row]:
    by_name = {entry[0]: entry for entry in entries}
    return [Row(*by_name[name], split) for split, names in rule(by_name).items() for name in names]


def _without_targets(
    by_sat: dict[str, list[_Entry]], targets: Sequence[str], left_out: dict[str, str]
) -> dict[str, list[_Entry]]:
    """Return the SAT speakers who are no targets, and note the others in `left_out`."""
    for speaker in sorted(by_sat.keys() & set(targets)):
        also = f"{left_out[speaker]}; " if speaker in left_out else ""
        left_out[speaker] = f"{also}SAT utterances of a target speaker ({len(by_sat[speaker])})"
    return {speaker: entries for speaker, entries in by_sat.items() if speaker not in targets}


def _sat_rows(by_sat: dict[str, list[_Entry]], left_out: Mapping[str, str]) -> list[Row]:
    names = sorted(by_sat)
    if len(names) < 2:
        targets = f" ({join_first(left_out)} are targets)" if left_out else ""
        raise PqmError(
            f"{len(names)} SAT speakers are left{targets}, and one to train on and one for dev are needed: "
            "name further SAT sets, or fewer targets, or do without SAT: --sat_sets ''"
        )
    dev = set(names[-max(1, round(_SAT_DEV_SHARE * len(names))) :])
    return [Row(*entry, SAT_SPLITS[name in dev]) for name in names for entry in by_sat[name]]


def _check_unique(rows: Iterable[Row]) -> None:
    counts = Counter(row.utterance for row in rows)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise PqmError(f"{join_first(twice)}: in two rows of the partition: name sets that do not share utterances")
