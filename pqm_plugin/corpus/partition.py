"""The speaker partition (targets, SAT speakers, splits), by rule or by list, and the overlap of test and training."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pqm_plugin.corpus.names import join_first, suggest
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.files import decode_text, read_json, write_text

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
    """Add SAT and control rows to those of the target speakers; `targets` are all who must not be SAT speakers.

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
    """Return the SAT speakers who are not targets, and note the others in `left_out`."""
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


Overlap = dict[str, int | list[str] | None]
ANYWHERE, UNSEEN = "anywhere", "unseen"
_LEARNED = ("train", "dev", "sat_train", "sat_dev")
_log = logging.getLogger(__name__)


def overlap(partition: Partition, sets: Mapping[str, Sequence[Utterance]]) -> dict[str, Overlap]:
    """Return for each target speaker the size of the test and how much of it train knows already.

    `same_text` counts test utterances, and `same_text_words` their words, whose whole text the speaker's own train
    holds too, letter case aside; `same_text_sat` those whose text SAT was trained on. `same_source` counts test
    utterances of `shared_sources`: the books, talks or sessions that the speaker's train has too. Both are None if the
    corpus tells the source of no test utterance.
    """
    known = {(name, each.utterance): each for name, utterances in sets.items() for each in utterances}
    found: dict[tuple[str, str], list[Utterance]] = {}
    for row in partition.rows:
        found.setdefault((row.split, row.speaker), []).append(known[row.set, row.utterance])
    sat = {_text(each) for (split, _), group in found.items() if split == "sat_train" for each in group}
    return {
        speaker: _of_speaker(found[("train", speaker)], found[("test", speaker)], sat)
        for speaker in partition.speakers("test")
    }


def without_test_sentences(partition: Partition, sets: Mapping[str, Sequence[Utterance]]) -> Partition:
    """Leave out train and dev utterances that have the whole text of any test utterance, letter case aside.

    Raises:
        PqmError: if a speaker or SAT has nothing left to train on.
    """
    texts = {(name, each.utterance): _text(each) for name, utterances in sets.items() for each in utterances}
    tested = {texts[row.set, row.utterance] for row in partition.rows if row.split == "test"}
    kept = tuple(
        row for row in partition.rows if row.split not in _LEARNED or texts[row.set, row.utterance] not in tested
    )
    smaller = Partition(kept, partition.left_out)
    lost = sorted({(row.split, row.speaker) for row in partition.rows} - {(row.split, row.speaker) for row in kept})
    if lost:
        split, speaker = lost[0]
        raise PqmError(
            f"--test_sentences {UNSEEN}: every {split} text of {speaker} is somebody's test text: a corpus of so few "
            f"sentences takes --test_sentences {ANYWHERE}, and shows what others' adapters do"
        )
    for split in _LEARNED:
        before, after = len(partition.utterances(split)), len(smaller.utterances(split))
        if after < before:
            _log.info("%s: %d of %d utterances are left out, their text is a test text", split, before - after, before)
    return smaller


def _of_speaker(train: Sequence[Utterance], test: Sequence[Utterance], sat: set[str]) -> Overlap:
    heard = {_text(each) for each in train}
    same_text = [each for each in test if _text(each) in heard]
    sources = {each.source for each in test} - {""}
    shared = sources & {each.source for each in train}
    return {
        "utterances": len(test),
        "words": _n_words(test),
        "same_text": len(same_text),
        "same_text_words": _n_words(same_text),
        "same_text_sat": sum(_text(each) in sat for each in test),
        "same_source": sum(each.source in shared for each in test) if sources else None,
        "shared_sources": sorted(shared) if sources else None,
    }


def _text(utterance: Utterance) -> str:
    return " ".join(utterance.text.casefold().split())


def _n_words(utterances: Sequence[Utterance]) -> int:
    return sum(len(each.text.split()) for each in utterances)


PUBLISHED = Path(__file__).parent / "partitions"
_RANGE = re.compile(r"(?P<stem>.*?)(?P<first>\d+)\.\.(?P<last>\d+)")


@dataclass(frozen=True)
class Listing:
    """Utterance names by group and split. A group is what names begin with: `GROUP-…`, a reader or a talk.

    `counts` is how many utterances each split has in all.
    """

    name: str
    counts: Mapping[str, int]
    groups: Mapping[str, Mapping[str, Sequence[str]]]

    def group_of(self, utterance: str) -> str | None:
        """Return the group that an utterance's name begins with, listed or not; None if there is none."""
        parts = utterance.split("-")
        heads = ("-".join(parts[:length]) for length in range(len(parts) - 1, 0, -1))
        return next((head for head in heads if head in self.groups), None)

    @cached_property
    def split_of(self) -> dict[str, str]:
        """Map each listed utterance to its split."""
        return {name: split for splits in self.groups.values() for split, names in splits.items() for name in names}


def find_listing(partition: str, reader: str) -> Listing:
    """Return the listing `partition`: the name of a published one of the corpus layout `reader`, or a JSON file.

    The file maps `groups` to `{GROUP: {"total": N, "train": "NAMES", "dev": "NAMES", "test": "NAMES"}}`, where NAMES
    are separated by blanks, lack the `GROUP-` in front, and `0003..0007` stands for five of them; and `counts` to
    the number of utterances in each split.

    Raises:
        PqmError: if there is no such listing, it lists an utterance twice, or its numbers do not add up.
    """
    published = PUBLISHED / f"{partition}_{reader}.json"
    path = published if published.is_file() else Path(partition)
    if not path.is_file():
        known = [each.stem.removesuffix(f"_{reader}") for each in PUBLISHED.glob(f"*_{reader}.json")]
        raise PqmError(
            f"--partition {partition}: no such file, and no published partition of {reader} "
            f"({suggest(partition, known)}): name one of them or a JSON file"
        )
    values = read_json(path)
    try:
        listing = Listing(
            f"{partition} ({values['source']})" if "source" in values else partition,
            {split: int(values["counts"][split]) for split in SPLITS},
            {group: _names(group, entry) for group, entry in values["groups"].items()},
        )
        totals = {group: int(entry["total"]) for group, entry in values["groups"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise PqmError(f"{path} is not a partition ({error!r}): see {PUBLISHED} for the form") from None
    _check(path, listing, totals)
    return listing


def listed_partition(
    listing: Listing, targets: Sets, sat: Sets, speakers: Sequence[str] | None = None, check: Sets | None = None
) -> Partition:
    """Split the target speakers as `listing` says; SAT and control speakers as `make_partition` does.

    Raises:
        PqmError: if a group's utterances in `targets` are not those that are listed, with the difference.
    """
    found = dict(_found(listing, targets))
    known = sorted({utterance.speaker for utterance, _ in found.values()})
    unknown = sorted(set(speakers or ()) - set(known))
    if unknown:
        raise PqmError(f"--speakers: {join_first(unknown)} not in the partition ({suggest(unknown[0], known)})")
    kept = {name: each for name, each in found.items() if not speakers or each[0].speaker in speakers}
    groups = {listing.group_of(name) for name in kept} if speakers else set(listing.groups)
    _check_fit(listing, {group for group in groups if group}, kept)
    rows = [
        Row(name, utterance.speaker, set_name, listing.split_of[name]) for name, (utterance, set_name) in kept.items()
    ]
    return with_teachers(rows, sorted({row.speaker for row in rows}), sat, check, {})


def _names(group: str, entry: Mapping[str, Any]) -> dict[str, list[str]]:
    return {split: [f"{group}-{name}" for text in entry[split].split() for name in _spread(text)] for split in SPLITS}


def _spread(text: str) -> Iterator[str]:
    """Yield the names of `0003..0007`, both ends included, or `text` itself."""
    match = _RANGE.fullmatch(text)
    if match is None:
        yield text
        return
    first, last = match["first"], match["last"]
    if int(last) < int(first):
        raise ValueError(f"{text} ends before it begins")
    for number in range(int(first), int(last) + 1):
        yield f"{match['stem']}{number:0{len(first)}d}"


def _check(path: Path, listing: Listing, totals: Mapping[str, int]) -> None:
    listed = {group: sum(map(len, splits.values())) for group, splits in listing.groups.items()}
    odd = [f"{group} lists {listed[group]} of {total}" for group, total in totals.items() if listed[group] != total]
    sums = {split: sum(len(splits[split]) for splits in listing.groups.values()) for split in SPLITS}
    odd += [
        f"{split} lists {sums[split]} of {listing.counts[split]}"
        for split in SPLITS
        if sums[split] != listing.counts[split]
    ]
    if len(listing.split_of) != sum(listed.values()):
        odd.append("an utterance appears twice")
    if odd:
        raise PqmError(f"{path} does not add up: {join_first(odd)}: correct the file")


def _found(listing: Listing, targets: Sets) -> Iterator[tuple[str, tuple[Utterance, str]]]:
    for set_name, utterances in targets.items():
        for utterance in utterances:
            if listing.group_of(utterance.utterance):
                yield utterance.utterance, (utterance, set_name)


def _check_fit(listing: Listing, groups: set[str], found: Mapping[str, object]) -> None:
    """Raise with the difference, group by group, unless the utterances found are those that are listed."""
    there: dict[str, set[str]] = {group: set() for group in groups}
    for name in found:
        there[listing.group_of(name) or ""].add(name)
    odd = []
    n_listed = 0
    for group in sorted(groups):
        listed = {name for names in listing.groups[group].values() for name in names}
        n_listed += len(listed)
        if there[group] != listed:
            odd.append(f"{group} {_difference(there[group], listed)}")
    if odd:
        raise PqmError(
            f"partition {listing.name}: {len(odd)} of {len(groups)} groups do not fit the corpus, which has "
            f"{len(found)} utterances for the {n_listed} that are listed: {'; '.join(odd[:20])}: fetch the corpus "
            "again, check --target_set, or bring a partition of your own with --partition FILE"
        )


def _difference(there: set[str], listed: set[str]) -> str:
    counts = f"has {len(there)} utterances where {len(listed)} are listed"
    parts = [
        f"{what} {join_first(sorted(names), 3)}"
        for what, names in (("without", listed - there), ("and also", there - listed))
        if names and there
    ]
    return f"{counts} ({', '.join(parts)})" if parts else counts
