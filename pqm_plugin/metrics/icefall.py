"""Decoded words and their errors in the files of icefall: `recogs-*.txt`, `errs-*.txt`, `wer-summary-*.txt`."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from pqm_plugin.metrics.wer import Alignment, ScoredUtterance, Step, align, count_steps

_NOTHING = "*"


def recogs_txt(scored: Sequence[ScoredUtterance]) -> str:
    """Two lines an utterance, its words as Python writes a list: `ID:<tab>ref=[…]` and `ID:<tab>hyp=[…]`."""
    return "".join(
        f"{one.utterance}:\tref={one.reference.split()}\n{one.utterance}:\thyp={one.hypothesis.split()}\n"
        for one in scored
    )


def errs_txt(scored: Sequence[ScoredUtterance]) -> str:
    """The error rate in percent, every alignment, and the counts of each substitution, deletion, insertion and word.

    Errors are the fewest there can be, as kaldialign counts them for icefall.
    """
    alignments = align([one.reference for one in scored], [one.hypothesis for one in scored])
    counts = count_steps(tuple(step for alignment in alignments for step in alignment))
    wrong: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for alignment in alignments:
        for step in alignment:
            wrong[step.kind][step.reference, step.hypothesis] += 1
    lines = [
        f"%WER = {100 * counts.rate:.2f}",
        f"Errors: {counts.insertions} insertions, {counts.deletions} deletions, {counts.substitutions} substitutions, "
        f"over {counts.words} reference words ({counts.correct} correct)",
        "Search below for sections starting with PER-UTT DETAILS:, SUBSTITUTIONS:, DELETIONS:, INSERTIONS:, "
        "PER-WORD STATS:",
        "",
        "PER-UTT DETAILS: corr or (ref->hyp)  ",
        *(f"{one.utterance}:\t{_details(steps)}" for one, steps in zip(scored, alignments, strict=True)),
        "",
        "SUBSTITUTIONS: count ref -> hyp",
        *(f"{count}   {said} -> {heard}" for count, (said, heard) in _falling(wrong["S"])),
        "",
        "DELETIONS: count ref",
        *(f"{count}   {said}" for count, (said, _) in _falling(wrong["D"])),
        "",
        "INSERTIONS: count hyp",
        *(f"{count}   {heard}" for count, (_, heard) in _falling(wrong["I"])),
        "",
        "PER-WORD STATS: word  corr tot_errs count_in_ref count_in_hyp",
        *_by_word(step for alignment in alignments for step in alignment),
    ]
    return "".join(f"{line}\n" for line in lines)


def wer_summary_txt(rates: Mapping[str, float]) -> str:
    """The error rate in percent of each setting, the best first; `rates` are fractions."""
    rows = sorted(rates.items(), key=lambda row: row[1])
    return "settings\tWER\n" + "".join(f"{name}\t{100 * rate:.2f}\n" for name, rate in rows)


def _falling(counted: Counter[tuple[str, str]]) -> list[tuple[int, tuple[str, str]]]:
    return sorted(((count, pair) for pair, count in counted.items()), reverse=True)


def _details(alignment: Alignment) -> str:
    """Right words as they are, each run of wrong ones as `(said->heard)`."""
    parts: list[str] = []
    said: list[str] = []
    heard: list[str] = []
    for step in [*alignment, Step("C", "", "")]:
        if step.kind != "C":
            said += [step.reference] if step.reference else []
            heard += [step.hypothesis] if step.hypothesis else []
            continue
        if said or heard:
            parts.append(f"({' '.join(said) or _NOTHING}->{' '.join(heard) or _NOTHING})")
            said, heard = [], []
        parts += [step.reference] if step.reference else []
    return " ".join(parts)


def _by_word(steps: Iterable[Step]) -> list[str]:
    """`word   right wrong in_references in_hypotheses`, the most often wrong first."""
    right: Counter[str] = Counter()
    said: Counter[str] = Counter()
    heard: Counter[str] = Counter()
    for step in steps:
        if step.kind == "C":
            right[step.reference] += 1
            continue
        said[step.reference] += bool(step.reference)
        heard[step.hypothesis] += bool(step.hypothesis)
    words = {*right, *said, *heard} - {""}
    rows = sorted(((said[word] + heard[word], word) for word in words), reverse=True)
    return [
        f"{word}   {right[word]} {wrong} {right[word] + said[word]} {right[word] + heard[word]}" for wrong, word in rows
    ]
