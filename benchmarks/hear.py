"""From files to words: time and peak memory of whole processes, ours by either runtime and faster-whisper, in turns.

`python benchmarks/hear.py --model PACKED [--peer CTRANSLATE2] --out FILE` hears the same clips with `pqm transcribe`
through ONNX Runtime and through torch over a Whisper's whole window, through the former over what is spoken, and with
faster-whisper in 8 bits where a folder for it is given. Each way runs in a process of its own, they take turns, and
memory is the `VmHWM` that the system has of the process. WER stands beside each, of words with Whisper's normaliser.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pqm_plugin.files import write_json
from pqm_plugin.processes import peak_rss_of

_PEER = """
import json, sys
from faster_whisper import WhisperModel
folder, beam, threads, *clips = sys.argv[1:]
model = WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=int(threads))
for clip in clips:
    found, _ = model.transcribe(clip, beam_size=int(beam), language="en", without_timestamps=True)
    print(json.dumps({"audio": clip, "text": " ".join(part.text for part in found)}), flush=True)
"""


def watched(command: list[str], threads: int) -> dict[str, Any]:
    """Run a process to its end: seconds, processor seconds, peak memory in bytes, and the texts by audio file."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    before, start, peak = os.times(), time.perf_counter(), [0]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)

    def watch() -> None:
        while process.poll() is None:
            peak[0] = max(peak[0], peak_rss_of(process.pid))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    output = process.communicate()[0]
    seconds = time.perf_counter() - start
    watcher.join()
    after = os.times()
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:6])} … ended with {process.returncode}")
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    rows = [json.loads(line) for line in output.splitlines()]
    texts = {row["audio"]: row["text"] for row in rows}
    return {"seconds": seconds, "processor_s": spent, "peak_bytes": peak[0], "texts": texts}


def clips_of(corpus: Path, n_clips: int) -> dict[str, str]:
    """So many clips of a corpus in LibriSpeech's layout, evenly chosen, with their texts."""
    texts = {}
    for path in sorted(corpus.rglob("*.trans.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, words = line.partition(" ")
            texts[str(path.parent / f"{name}.flac")] = words
    names = sorted(name for name in texts if Path(name).is_file())
    return {name: texts[name] for name in names[:: max(1, len(names) // n_clips)][:n_clips]}


def wer(texts: dict[str, str], truth: dict[str, str]) -> float:
    """Word error rate after Whisper's English normaliser."""
    import jiwer
    from whisper_normalizer.english import EnglishTextNormalizer

    normal = EnglishTextNormalizer()
    names = [name for name in truth if normal(truth[name])]
    found: float = jiwer.wer([normal(truth[name]) for name in names], [normal(texts[name]) for name in names])
    return found


def main() -> None:
    """Measure, print a line a way, and write."""
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a packed model")
    parser.add_argument("--peer", type=Path, help="a folder for faster-whisper of the same model")
    parser.add_argument("--corpus", type=Path, default=root.parent / "shared" / "data" / "LibriSpeech")
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--beam_size", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--without_torch", action="store_true", help="leave the torch runtime out")
    parser.add_argument("--out", type=Path)
    wanted = parser.parse_args()
    truth = clips_of(wanted.corpus, wanted.clips)
    settings = ["--beam_size", str(wanted.beam_size), "--threads", str(wanted.threads), "--format", "json"]
    ours = [sys.executable, "-m", "pqm_plugin.commands", "transcribe", "--quiet", str(wanted.model), *truth, *settings]
    window = ["--context", "window"]
    ways = {
        "onnx": [*ours, "--runtime", "onnx", *window],
        "onnx, what is spoken": [*ours, "--runtime", "onnx", "--context", "clip"],
    }
    if not wanted.without_torch:
        ways["torch"] = [*ours, "--runtime", "torch", *window]
    if wanted.peer:
        program = [str(wanted.peer), str(wanted.beam_size), str(wanted.threads)]
        ways["faster-whisper int8"] = [sys.executable, "-c", _PEER, *program, *truth]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for _ in range(wanted.turns):
        for name, command in ways.items():
            runs[name].append(watched(command, wanted.threads))
    rows = {}
    for name, found in runs.items():
        best = min(found, key=lambda run: run["seconds"])
        rows[name] = {key: min(run[key] for run in found) for key in ("seconds", "processor_s", "peak_bytes")}
        rows[name]["wer"] = wer(best["texts"], truth)
        print(name, json.dumps(rows[name]), flush=True)
    if wanted.out:
        write_json(wanted.out, {"model": wanted.model.name, "clips": len(truth), "ways": rows})


if __name__ == "__main__":
    main()
