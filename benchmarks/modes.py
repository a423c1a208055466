"""What each mode of a packed model costs: bytes, memory, time to open, time to decode, and its word errors.

`python benchmarks/modes.py --out FILE` opens the real Conformer in processes of their own, as stock ESPnet, as the
float model here and in 4 bits in every mode, in turns. Memory is read from outside, from /proc: the peak while opening,
and the peak while decoding, the counter being set back in between. `weights_memory_ratio` is what a mode's weights take
while it decodes, over the bytes of the float32 weights: those, less what its peak is lower than the float model's peak.
So what both need alike, libraries and activations, cancels out; what only one needs, unpacked layers, counts. Linux.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import ROOT, SHARED, ceilings, meta, spread
from pqm_plugin.files import write_json
from pqm_plugin.metrics.wer import counts_of, total
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.processes import SHORT_SPIN, peak_rss_of
from pqm_plugin.quantize.checkpoint import save_packed
from pqm_plugin.quantize.layers import quantize_layers
from pqm_plugin.quantize.names import MODES, PACKED
from pqm_plugin.stages.config import load_config
from pqm_plugin.stages.quantize import quantized_kinds, weight_format

CONFIG = ROOT / "egs" / "librispeech" / "conf" / "pqm.yaml"
Clips = Mapping[Path, str]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--model", type=Path, default=SHARED / "models" / "conformer_small", help="ESPnet experiment")
    parser.add_argument("--speech", type=Path, default=SHARED / "data/LibriSpeech/dev-clean", help="folder of readers")
    parser.add_argument("--utterances", type=int, default=10, help="how many, of as many readers (default 10)")
    parser.add_argument("--beam", type=int, default=10, help="beam of the search (default 10)")
    parser.add_argument("--repeats", type=int, default=2, help="turns (default 2)")
    wanted = parser.parse_args()
    about = meta(seed=0, n_threads=1)
    speech = clips(wanted.speech, wanted.utterances)
    with tempfile.TemporaryDirectory(prefix="pqm_bench_") as scratch:
        packed = Path(scratch) / "packed"
        float_bytes = pack(wanted.model, packed)
        folders = {"stock": wanted.model, "full": wanted.model, **dict.fromkeys(MODES, packed)}
        runs: dict[str, list[dict[str, Any]]] = {mode: [] for mode in folders}
        for _ in range(wanted.repeats):
            for mode, folder in folders.items():
                runs[mode].append(watch(folder, mode, wanted.beam, list(speech)))
        sizes = {mode: weights_bytes(folder, mode) for mode, folder in folders.items()}
    found = {mode: row(mode, runs, sizes[mode], float_bytes, speech) for mode in runs}
    facts = {"utterances": len(speech), "beam": wanted.beam, "float_weights_bytes": float_bytes}
    write_json(wanted.out, {"meta": about, "ceilings": ceilings(), "modes": facts | found})
    print(json.dumps(facts | found, indent=2))


def clips(speech: Path, n: int) -> dict[Path, str]:
    """One utterance of each of `n` readers, that of middling size, with its transcript in the model's letter case."""
    chosen: dict[Path, str] = {}
    for reader in sorted(folder for folder in speech.iterdir() if folder.is_dir())[:n]:
        files = sorted(reader.rglob("*.flac"), key=lambda path: path.stat().st_size)
        clip = files[len(files) // 2]
        [listing] = clip.parent.glob("*.trans.txt")
        texts = dict(line.split(" ", 1) for line in listing.read_text(encoding="utf-8").splitlines())
        chosen[clip] = texts[clip.stem].lower()
    return chosen


def pack(model: Path, out: Path) -> int:
    """Write the model in 4 bits as the recipe does, and give the bytes of its float32 weights."""
    out.mkdir()
    family = family_of(model)
    config = load_config(CONFIG).quantize
    recognizer = family.load_float(model, SearchOptions(), "cpu")
    float_bytes = sum(4 * parameter.numel() for parameter in recognizer.network.parameters())
    quantize_layers(recognizer.network, list(quantized_kinds(recognizer, config)), weight_format(config))
    save_packed(out / PACKED, recognizer.network, config.rest_dtype)
    for path in family.side_files(model):
        shutil.copyfile(path, out / path.name)
    return float_bytes


def weights_bytes(folder: Path, mode: str) -> int:
    """The size of the weights' file."""
    return (folder / PACKED if mode in MODES else family_of(folder).weights_file(folder)).stat().st_size


def watch(folder: Path, mode: str, beam: int, audio: Sequence[Path]) -> dict[str, Any]:
    """Run a worker and read its memory from outside whenever it waits."""
    command = [sys.executable, str(Path(__file__).with_name("_modes_worker.py")), str(folder), mode, str(beam)]
    environment = os.environ | SHORT_SPIN | {"OMP_NUM_THREADS": "1"}
    found: dict[str, Any] = {}
    with subprocess.Popen(
        [*command, *map(str, audio)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        assert process.stdin and process.stdout
        for line in process.stdout:
            if not line.startswith("PQM "):
                continue
            said = json.loads(line.removeprefix("PQM "))
            found[said.pop("step")] = said | {"peak_bytes": peak_rss_of(process.pid)}
            # Sets the peak back to what is resident now.
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")
            process.stdin.write("go on\n")
            process.stdin.flush()
    if "decoded" not in found:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    return found


def row(
    mode: str, runs: Mapping[str, Sequence[Mapping[str, Any]]], size_bytes: int, float_bytes: int, speech: Clips
) -> dict[str, Any]:
    """The figures of a mode; ratios are medians over the turns, each against the others of its turn."""
    of_mode, full, stock = runs[mode], runs["full"], runs["stock"]
    saved = [f["decoded"]["peak_bytes"] - m["decoded"]["peak_bytes"] for f, m in zip(full, of_mode, strict=True)]
    speed = [s["decoded"]["s"] / m["decoded"]["s"] for s, m in zip(stock, of_mode, strict=True)]
    references, texts = list(speech.values()), of_mode[0]["decoded"]["texts"]
    counts = total(counts_of(references, texts), "clips")
    return {
        "file_bytes": size_bytes,
        "open_s": spread([run["opened"]["s"] for run in of_mode]),
        "peak_while_opening_bytes": statistics.median(run["opened"]["peak_bytes"] for run in of_mode),
        "peak_while_decoding_bytes": statistics.median(run["decoded"]["peak_bytes"] for run in of_mode),
        "weights_memory_ratio": spread([1 - one / float_bytes for one in saved]),
        "decode_s": spread([run["decoded"]["s"] for run in of_mode]),
        "speed_of_stock": spread(speed),
        "wer": round(counts.rate, 4),
        "words_of_full": sum(ours == theirs for ours, theirs in zip(texts, full[0]["decoded"]["texts"], strict=True)),
    }


if __name__ == "__main__":
    main()
