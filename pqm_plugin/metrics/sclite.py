"""sclite's files without sclite: transcripts (trn) and the result table that ESPnet's scripts grep."""

import re
import shutil
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pqm_plugin.errors import PqmError
from pqm_plugin.files import write_text
from pqm_plugin.metrics.wer import Alignment, ErrorCounts, ScoredUtterance, align, count_steps

_INDENT = " " * 7
_COUNTED = (
    "Errors are the fewest that make the hypothesis of the reference (jiwer); case matters. sclite itself aligns with "
    "weights 4 and 3 and without case: --scorer sclite counts so, too."
)
_COMMANDS = (("sclite",), ("sctk", "sclite"))
"""Of sctk as NIST builds it, and as Debian packs it."""
_SUM = re.compile(r"\|\s*Sum\s*\|\s*(\d+)\s+(\d+)\s*\|\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s*\|")
_HEADINGS = ("# Snt # Wrd", "Corr", "Sub", "Del", "Ins", "Err", "S.Err")
_WIDTHS = (5, 6, 5, 6, 6, 6, 6, 6)


def trn_id(utterance: str, speaker: str) -> str:
    """Name an utterance as ESPnet does: `(speaker-utterance)`."""
    return f"({speaker}-{utterance})"


def write_trn(path: Path, texts: Mapping[str, str], speakers: Mapping[str, str]) -> None:
    """Write one line an utterance, in the order of `texts`: words, tab, `(speaker-utterance)`."""
    lines = (f"{' '.join(text.split())}\t{trn_id(key, speakers[key])}\n" for key, text in texts.items())
    write_text(path, "".join(lines))


def read_trn(path: Path, speakers: Mapping[str, str]) -> dict[str, str]:
    """Read the words of each utterance; `speakers` tells where a speaker's name ends, for both may hold dashes.

    Raises:
        PqmError: if the file is missing, or a line has no id, an id that `speakers` does not know or a repeated id.
    """
    known = {trn_id(utterance, speaker): utterance for utterance, speaker in speakers.items()}
    texts: dict[str, str] = {}
    for number, line in enumerate(_lines(path), start=1):
        words, identifier = _split(line)
        if identifier not in known:
            raise PqmError(
                f"{path}:{number}: {identifier[:80] or 'an empty line'!r} is not a (speaker-utterance) of utt2spk "
                "beside it; decode this set again"
            )
        if known[identifier] in texts:
            raise PqmError(f"{path}:{number}: {identifier} appears twice; decode this set again")
        texts[known[identifier]] = words
    return texts


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PqmError(f"{path} is missing; decode this set again") from None
    except UnicodeDecodeError:
        raise PqmError(f"{path} is not UTF-8; decode this set again") from None
    # Not splitlines, which also cuts at characters such as U+2028.
    return text.removesuffix("\n").split("\n") if text else []


def _split(line: str) -> tuple[str, str]:
    """Cut at the last tab; sclite itself also takes blanks, or nothing, before the last parenthesis."""
    words, tab, identifier = line.rstrip().rpartition("\t")
    if not tab:
        words, parenthesis, rest = line.rstrip().rpartition("(")
        identifier = parenthesis + rest
    return " ".join(words.split()), identifier.strip()


def by_sclite(references: Path, hypotheses: Path) -> tuple[str, ErrorCounts]:
    """What sclite itself writes of two trn files, called as ESPnet's recipes call it, and the errors that it counts.

    It ignores case, and may count more errors than the fewest, since a substitution weighs 4 and all else 3.

    Raises:
        PqmError: if sclite is not installed, or fails.
    """
    command = next((names for names in _COMMANDS if shutil.which(names[0])), None)
    if command is None:
        raise PqmError("--scorer sclite: sclite is not installed: apt-get install sctk, or leave the option out")
    arguments = ["-r", str(references), "trn", "-h", str(hypotheses), "trn", "-i", "rm", "-o", "all", "stdout"]
    done = subprocess.run([*command, *arguments], capture_output=True, check=False)
    text = done.stdout.decode(errors="replace")
    found = _SUM.search(text)
    if done.returncode != 0 or found is None:
        said = " ".join((done.stderr + done.stdout).decode(errors="replace").split())[-200:]
        raise PqmError(f"sclite gave exit {done.returncode} ({said}): run `{' '.join([*command, *arguments])}`")
    _, words, _, substitutions, deletions, insertions, *_ = map(int, found.groups())
    return text, ErrorCounts(words, substitutions, deletions, insertions)


def result_txt(scored: Sequence[ScoredUtterance], title: str) -> str:
    """Write what `sclite -i rm -o all stdout` writes: percentages, raw counts, then every alignment.

    The counts are those of jiwer: each error costs 1 and case matters. sclite weighs a substitution 4 and the others
    3 and ignores case unless told otherwise, so its division into Sub, Del and Ins can differ a little.
    """
    steps = align([one.reference for one in scored], [one.hypothesis for one in scored])
    by_speaker: dict[str, list[tuple[ScoredUtterance, Alignment]]] = {}
    for one, alignment in zip(scored, steps, strict=True):
        by_speaker.setdefault(one.speaker, []).append((one, alignment))
    rows = {name: _raw_row(alignment for _, alignment in pairs) for name, pairs in by_speaker.items()}
    everybody = _raw_row(steps)
    percentages = {name: _percentages(row) for name, row in rows.items()}
    parts = [
        f"{_INDENT}{'SYSTEM SUMMARY PERCENTAGES by SPEAKER':>51}\n",
        _table(title, percentages, "Sum/Avg", _percentages(everybody), decimals=1),
        f"\n\n{_INDENT}{'SYSTEM SUMMARY RAW by SPEAKER':>47}\n",
        _table(title, rows, "Sum", everybody, decimals=0),
        f"\n\n{_INDENT}{_COUNTED}",
        f"\n\t\tDUMP OF SYSTEM ALIGNMENT STRUCTURE\n\nSystem name:   {title}\n\nSpeakers:",
        *(f"{number:5d}:   {name}" for number, name in enumerate(by_speaker)),
        *(_alignments(number, name, pairs) for number, (name, pairs) in enumerate(by_speaker.items())),
    ]
    return "\n".join(parts) + "\n"


def _raw_row(alignments: Iterable[Alignment]) -> list[float]:
    """Count sentences, words, correct, substituted, deleted, inserted, errors, sentences with an error."""
    each: list[ErrorCounts] = [count_steps(alignment) for alignment in alignments]
    columns = [[c.words, c.correct, c.substitutions, c.deletions, c.insertions, c.errors, c.errors > 0] for c in each]
    return [len(each), *(float(sum(column)) for column in zip(*columns, strict=True))]


def _percentages(row: Sequence[float]) -> list[float]:
    sentences, words, *counted, wrong_sentences = row
    return [
        sentences,
        words,
        *(100 * value / words if words else 0.0 for value in counted),
        100 * wrong_sentences / sentences,
    ]


def _table(
    title: str, rows: Mapping[str, Sequence[float]], sum_name: str, sum_row: Sequence[float], decimals: int
) -> str:
    columns = list(zip(*rows.values(), strict=True))
    spread = [statistics.stdev(column) if len(column) > 1 else 0.0 for column in columns]
    width = max(8, *(len(name) + 2 for name in rows))
    widths = [max(least, len(f"{value:.1f}")) for least, value in zip(_WIDTHS, sum_row, strict=True)]
    lines = [
        _row(f" {'SPKR':<{width - 1}}", _HEADINGS, [sum(widths[:2]) + 1, *widths[2:]]),
        *(_row(f" {name:<{width - 1}}", _cells(row, 0, decimals), widths) for name, row in rows.items()),
        _row(f" {sum_name:<{width - 1}}", _cells(sum_row, 0, decimals), widths),
        _row(f"{'Mean':^{width}}", _cells([statistics.fmean(column) for column in columns], 1, 1), widths),
        _row(f"{'S.D.':^{width}}", _cells(spread, 1, 1), widths),
        _row(f"{'Median':^{width}}", _cells([statistics.median(column) for column in columns], 1, 1), widths),
    ]
    inner = len(lines[0]) - 2
    double, thin = f"|{'=' * inner}|", "|" + "+".join("-" * len(cell) for cell in lines[0].split("|")[1:-1]) + "|"
    n_speakers = len(rows)
    body = [line for row in lines[: n_speakers + 1] for line in (row, thin)][:-1]
    head = [f",{'-' * inner}.", f"|{title[:inner]:^{inner}}|", f"|{'-' * inner}|"]
    drawn = [*head, *body, double, lines[n_speakers + 1], double, *lines[n_speakers + 2 :], f"`{'-' * inner}'"]
    return "\n".join(_INDENT + line for line in drawn)


def _cells(row: Sequence[float], first: int, rest: int) -> list[str]:
    return [f"{value:.{first if place < 2 else rest}f}" for place, value in enumerate(row)]


def _row(name: str, cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)]
    n_left = len(cells) - 6
    return f"|{name}|{' '.join(padded[:n_left])} |{' '.join(padded[n_left:])} |"


def _alignments(number: int, speaker: str, pairs: Sequence[tuple[ScoredUtterance, Alignment]]) -> str:
    blocks = [_alignment(one, alignment) for one, alignment in pairs]
    return "\n".join([f"\nSpeaker sentences{number:6d}:  {speaker}   #utts: {len(pairs)}", *blocks])


def _alignment(one: ScoredUtterance, alignment: Alignment) -> str:
    count = count_steps(alignment)
    widths = [max(len(step.reference), len(step.hypothesis)) for step in alignment]
    columns = list(zip(alignment, widths, strict=True))
    said = " ".join((step.reference or "*" * width).ljust(width) for step, width in columns)
    written = " ".join((step.hypothesis or "*" * width).ljust(width) for step, width in columns)
    marks = " ".join(("" if step.kind == "C" else step.kind).ljust(width) for step, width in columns)
    scores = f"{count.correct} {count.substitutions} {count.deletions} {count.insertions}"
    return (
        f"id: {trn_id(one.utterance, one.speaker)}\nScores: (#C #S #D #I) {scores}\n"
        f"REF:  {said}\nHYP:  {written}\nEval: {marks}\n"
    )
