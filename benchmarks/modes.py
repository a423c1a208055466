"""What each mode of a packed model costs: bytes, memory, time to open, time to decode, and its word errors.

`python benchmarks/modes.py --out FILE` opens the real Conformer in processes of their own, as stock ESPnet, as the
float model here and in 4 bits in every mode, in turns, and decodes utterance by utterance on one thread. Memory is read
from outside, from /proc: the peak while opening, and the peak while decoding, the counter being set back in between.
`weights_memory_ratio` is what a mode's weights take while it decodes, over the bytes of the float32 weights: those,
less what its peak is lower than the float model's peak. So what both need alike, libraries and activations, cancels
out; what only one needs, unpacked layers, counts. Linux. On a CUDA device the peaks are those of its own memory.

All modes are opened as stage 6 opens them. `wer` is of more speech: the last utterances of each reader, which are among
those that the recipe tests on, decoded by every mode in batches, by stock one by one. 4 bits are by rounding to the
nearest level, without the recipe's calibration. Two to three minutes on two idle cores.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.common import (
    Clip,
    longest_first,
    meta,
    middling,
    parse,
    parser,
    ratios,
    readers_clips,
    spread,
    write,
)
from benchmarks.openers import open_mode, packed_folder, stock, texts_of
from pqm_plugin.errors import PqmError
from pqm_plugin.metrics.wer import counts_of, total
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.processes import SHORT_SPIN, n_cores, peak_rss_of
from pqm_plugin.quantize.modes import MODES, PACKED

SAME_WORDS = {"small": "exact", "stock": "full"}
"""What computes on the same numbers, so that its words must be the same."""


def main() -> None:
    """Measure and write."""
    options = parser(
        __doc__,
        utterances=(6, 2, "utterances of the turns, of as many readers"),
        wer_readers=(10, 2, "readers whose words are counted"),
        wer_utterances=(2, 1, "utterances of each of these"),
        beam=(10, 10, "beam of the search"),
        repeats=(2, 1, "turns"),
    )
    wanted = parse(options)
    about = meta(0, 1, wanted.device)
    clips = readers_clips(wanted.speech, wanted.utterances, middling)
    tested = readers_clips(wanted.speech, wanted.wer_readers, lambda files: files[-wanted.wer_utterances :])
    with tempfile.TemporaryDirectory(prefix="pqm_bench_") as scratch:
        packed = Path(scratch) / "packed"
        float_bytes = packed_folder(wanted.model, packed)
        folders = {"stock": wanted.model, "full": wanted.model, **dict.fromkeys(MODES, packed)}
        runs: dict[str, list[dict[str, Any]]] = {mode: [] for mode in folders}
        for _ in range(wanted.repeats):
            for mode, folder in folders.items():
                runs[mode].append(watch(folder, mode, wanted.beam, [clip.path for clip in clips], wanted.device))
        sizes = {mode: weights_bytes(folder, mode) for mode, folder in folders.items()}
        search = SearchOptions(beam_size=wanted.beam)
        wers = word_errors(folders, tested, search, wanted.device)
    found = {mode: row(mode, runs, sizes[mode], float_bytes) | wers[mode] for mode in runs}
    facts = {
        "utterances": len(clips),
        "audio_s": round(sum(clip.seconds for clip in clips), 1),
        "wer_utterances": len(tested),
        "beam": wanted.beam,
        "float_weights_bytes": float_bytes,
    }
    write(wanted, about, modes=facts | found)


def word_errors(
    folders: Mapping[str, Path], clips: Sequence[Clip], search: SearchOptions, device: str
) -> dict[str, dict[str, Any]]:
    """Word error rate of every mode."""
    torch.set_num_threads(n_cores())
    ordered = longest_first(clips)
    found: dict[str, dict[str, Any]] = {}
    for mode, folder in folders.items():
        recognizer = (stock if mode == "stock" else partial(open_mode, mode=mode))(folder, search=search, device=device)
        texts = texts_of(recognizer, [clip.samples for clip in ordered], search.batch_size)
        counts = total(counts_of([clip.text for clip in ordered], texts), "clips")
        found[mode] = {"wer": round(counts.rate, 4), "words": counts.words, "errors": counts.errors}
    return found


def weights_bytes(folder: Path, mode: str) -> int:
    """The size of the weights' file."""
    return (folder / PACKED if mode in MODES else family_of(folder).weights_file(folder)).stat().st_size


def watch(folder: Path, mode: str, beam: int, audio: Sequence[Path], device: str) -> dict[str, Any]:
    """Run a worker and read its memory from outside whenever it waits.

    Raises:
        PqmError: if it does not come to its end.
    """
    program = str(Path(__file__).with_name("_modes_worker.py"))
    command = [sys.executable, program, str(folder), mode, str(beam), device, *map(str, audio)]
    found: dict[str, Any] = {}
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as complaints,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            env=os.environ | SHORT_SPIN | {"OMP_NUM_THREADS": "1"},
        ) as process,
    ):
        assert process.stdin and process.stdout
        for line in process.stdout:
            if not line.startswith("PQM "):
                continue
            said = json.loads(line.removeprefix("PQM "))
            memory = {"peak_bytes": peak_rss_of(process.pid), "resident_bytes": resident_bytes(process.pid)}
            found[said.pop("step")] = memory | said
            # Sets the peak back to what is resident now.
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")
            process.stdin.write("go on\n")
            process.stdin.flush()
        process.wait()
        complaints.seek(0)
        last = (complaints.read().splitlines() or ["it said nothing"])[-1]
    if "decoded" not in found:
        raise PqmError(f"mode {mode} ended with status {process.returncode}: {last}")
    return found


def resident_bytes(pid: int) -> int:
    """Memory of a running process now, files that it has mapped included."""
    fields = Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def grew(run: Mapping[str, Any]) -> int:
    """Bytes between what was resident before the model was opened and the peak while it decoded."""
    grown: int = run["decoded"]["peak_bytes"] - run["ready"]["resident_bytes"]
    return grown


def row(
    mode: str, runs: Mapping[str, Sequence[Mapping[str, Any]]], size_bytes: int, float_bytes: int
) -> dict[str, Any]:
    """The figures of a mode; ratios are medians over the turns, each against the others of its turn.

    Memory of weights is what the process grew by since it was ready to open them, beside what one with float32 weights
    grew by: imports alone differ by a quarter of these weights from one process to the next.
    """
    of_mode, full, stock = runs[mode], runs["full"], runs["stock"]
    saved = [grew(float_run) - grew(run) for float_run, run in zip(full, of_mode, strict=True)]
    memory = spread([1 - one / float_bytes for one in saved])
    speed = ratios([run["decoded"]["s"] for run in stock], [run["decoded"]["s"] for run in of_mode])
    texts, exact = of_mode[0]["decoded"]["texts"], runs[SAME_WORDS.get(mode, mode)][0]["decoded"]["texts"]
    if texts != exact:
        raise PqmError(f"mode {mode} finds other words than {SAME_WORDS[mode]}")
    return {
        "file_bytes": size_bytes,
        "open_s": spread([run["opened"]["s"] for run in of_mode]),
        "peak_while_opening_bytes": statistics.median(run["opened"]["peak_bytes"] for run in of_mode),
        "peak_while_decoding_bytes": statistics.median(run["decoded"]["peak_bytes"] for run in of_mode),
        "weights_memory_ratio": memory["median"],
        "weights_memory_ratio_spread": memory,
        "decode_s": spread([run["decoded"]["s"] for run in of_mode]),
        "speed_of_stock": spread(speed),
        "words_of_full": sum(ours == theirs for ours, theirs in zip(texts, full[0]["decoded"]["texts"], strict=True)),
    }


if __name__ == "__main__":
    main()
