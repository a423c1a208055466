"""Whether the batched search has stock ESPnet's words and scores on all test utterances of ten readers.

`python benchmarks/same_words.py` decodes what the recipe tests on, the last two fifths of each reader's utterances,
with ESPnet's Speech2Text, one at a time, and here with the same float weights, in batches, at beam 10 and 1, and writes
same_words.json beside itself, or `--out`. Where words differ, or scores by more than `TOLERANCE`, the score of stock in
float64 tells which of the two is nearer. What is decoded is kept in `--parts` and not decoded again while the commit,
the model and the options are the same. By hand; most of its time is stock's.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from tqdm import tqdm

from benchmarks.common import Clip, longest_first, meta, parse, parser, readers_clips
from benchmarks.openers import opened, stock
from pqm_plugin.corpus.partition import paper_split
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, sha256, write_json
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.records import answers

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-4
BEAMS = (10, 1)
Found = tuple[str, float]
"""Words and score."""


def main() -> None:
    """Decode what has not been decoded, compare and write."""
    options = parser(
        __doc__,
        HERE / "same_words.json",
        readers=(10, 2, "readers"),
        utterances=(0, 2, "test utterances of each reader, 0 for all"),
        batch_size=(8, 2, "utterances of a batch"),
        threads=(2, 2, "threads"),
    )
    options.add_argument("--parts", type=Path, help="file for what is decoded (default OUT with .parts.json)")
    wanted = parse(options)
    torch.set_num_threads(wanted.threads)
    about = meta(0, wanted.threads, wanted.device) | {"quick": wanted.quick}
    clips = longest_first(readers_clips(wanted.speech, wanted.readers, partial(for_test, most=wanted.utterances)))
    known = Known(wanted.parts or wanted.out.with_suffix(".parts.json"), request(wanted, about["commit"]))
    beams = {}
    for beam in BEAMS:
        search = SearchOptions(beam_size=beam, batch_size=wanted.batch_size)
        beams[f"beam{beam}"] = compared(clips, search, wanted.model, wanted.device, known)
    write_json(wanted.out, {"meta": about, "readers": wanted.readers, "tolerance": TOLERANCE, "beams": beams})
    print(f"written to {wanted.out}")


def for_test(files: Sequence[Path], most: int) -> list[Path]:
    """Of a reader's files those that the recipe tests on; with `most` the first of them alone."""
    names = set(paper_split(path.stem for path in files)["test"][: most or None])
    return [path for path in files if path.stem in names]


def request(wanted: Any, commit: str) -> dict[str, Any]:
    """What decides the words."""
    weights = sha256(family_of(wanted.model).weights_file(wanted.model))
    sizes = {name: getattr(wanted, name) for name in ("batch_size", "threads", "device")}
    return {"commit": commit, "weights": weights, "speech": wanted.speech.name, **sizes}


class Known:
    """What was decoded, by system and utterance; kept in a file that a run which was cut off goes on from."""

    def __init__(self, path: Path, request: Mapping[str, Any]) -> None:
        """Take up what is there, if it answers the same request."""
        before = read_json(path) if path.is_file() else {}
        self._path, self._request = path, dict(request)
        self._found: dict[str, dict[str, Any]] = (
            before["found"] if answers(before.get("request"), self._request) else {}
        )

    def of(
        self,
        system: str,
        clips: Sequence[Clip],
        size: int,
        start: Callable[[], Callable[[Sequence[Clip]], list[Found]]],
    ) -> list[Found]:
        """What a system finds in each clip, `size` at a time; it is started if one is missing."""
        found = self._found.setdefault(system, {})
        batches = [clips[first : first + size] for first in range(0, len(clips), size)]
        missing = [batch for batch in batches if any(clip.path.stem not in found for clip in batch)]
        decode = start() if missing else None
        for batch in tqdm(missing, desc=system, unit="batch"):
            assert decode
            found |= dict(zip((clip.path.stem for clip in batch), decode(batch), strict=True))
            write_json(self._path, {"request": self._request, "found": self._found})
        return [tuple(found[clip.path.stem]) for clip in clips]


def compared(clips: Sequence[Clip], search: SearchOptions, model: Path, device: str, known: Known) -> dict[str, Any]:
    """How many utterances have stock's words, the largest difference of scores among these, and each other case."""
    beam = search.beam_size
    by_stock = lambda dtype: partial(_stock, model, search, device, dtype)  # noqa: E731
    ours = known.of(f"full beam {beam}", clips, search.batch_size, partial(_full, model, search, device))
    theirs = known.of(f"stock beam {beam}", clips, 1, by_stock("float32"))
    return compare(clips, ours, theirs, lambda some: known.of(f"float64 beam {beam}", some, 1, by_stock("float64")))


def compare(
    clips: Sequence[Clip],
    ours: Sequence[Found],
    theirs: Sequence[Found],
    exact: Callable[[Sequence[Clip]], Sequence[Found]],
) -> dict[str, Any]:
    """As `compared` says; `exact` is asked for the clips that need an explanation.

    Raises:
        PqmError: if a clip has no result.
    """
    if not len(clips) == len(ours) == len(theirs):
        raise PqmError(f"{len(clips)} utterances, {len(ours)} results here and {len(theirs)} of stock: run it again")
    same = [one[0] == other[0] for one, other in zip(ours, theirs, strict=True)]
    apart = [abs(one[1] - other[1]) for one, other in zip(ours, theirs, strict=True)]
    odd = [place for place in range(len(clips)) if not same[place] or apart[place] > TOLERANCE]
    by_float64 = exact([clips[place] for place in odd]) if odd else []
    cases = [
        {
            "utterance": clips[place].path.stem,
            "same_words": same[place],
            "ours": ours[place][1],
            "stock": theirs[place][1],
            "stock_float64": sure[1],
            "words": {"ours": ours[place][0], "stock": theirs[place][0], "stock_float64": sure[0]},
        }
        for place, sure in zip(odd, by_float64, strict=True)
    ]
    largest = max((value for value, equal in zip(apart, same, strict=True) if equal), default=0.0)
    return {"utterances": len(clips), "same_words": sum(same), "largest_difference": largest, "cases": cases}


def _stock(model: Path, search: SearchOptions, device: str, dtype: str) -> Callable[[Sequence[Clip]], list[Found]]:
    theirs = stock(model, search, device, dtype)

    def decode(clips: Sequence[Clip]) -> list[Found]:
        best = [theirs(clip.samples)[0] for clip in clips]
        return [(found[0], float(found[3].score)) for found in best]

    return decode


def _full(model: Path, search: SearchOptions, device: str) -> Callable[[Sequence[Clip]], list[Found]]:
    recognizer = opened(model, search, device)
    return lambda clips: [(one.text, one.score) for one in recognizer.recognize([clip.samples for clip in clips])]


if __name__ == "__main__":
    try:
        main()
    except PqmError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
