"""A partition that lists its utterances by name: a published one, or a user's own."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pqm_plugin.corpus.names import join_first, suggest
from pqm_plugin.corpus.partition import SPLITS, Partition, Row, Sets, with_teachers
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json

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
        odd.append("an utterance stands in it twice")
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
