"""From files to words: time, processor time and peak memory of whole processes, in turns, with the word errors of each.

The small Conformer, and each Whisper of `--whisper`, a CTranslate2 folder as faster-whisper reads it, are packed in
`--work` as `pqm quantize` does it. Then `pqm transcribe` through ONNX Runtime, through torch, and the peer (stock
ESPnet, faster-whisper in 8 bits) hear the same clips at the same beam: of each reader one, of each a short one, and one
of about five seconds alone. A Whisper is also heard with `--context clip`. Each way is a process of its own, from the
command to the words; memory is what the system says of it, `VmHWM`. RESULTS.md shows `benchmarks/hear.json`. About a
quarter of an hour with tiny.en and base on two cores that do nothing else.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import soundfile
from whisper_normalizer.english import EnglishTextNormalizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Clip, clip_of, meta, middling, parse, parser, ratios, readers_clips, spread
from pqm_plugin.errors import PqmError
from pqm_plugin.files import write_json
from pqm_plugin.processes import n_cores, peak_rss_of

BEAMS = {"conformer": 10, "whisper": 5}
PEERS = {"conformer": "stock ESPnet", "whisper": "faster-whisper int8"}
ALONE_S = 5.0
"""The clip that is nearest to this long is also heard alone."""
_WATCH_S = 0.01
_CTC = {"conformer": ["--ctc_weight", "0.5"], "whisper": []}
_OURS = {
    "conformer": {"onnx": ["onnx"], "torch": ["torch"]},
    "whisper": {
        "onnx": ["onnx", "--context", "window"],
        "onnx, context clip": ["onnx", "--context", "clip"],
        "torch": ["torch", "--context", "window"],
    },
}
SHORT_S = (2.0, 6.0)
"""What a short clip is."""
_PROGRAMS = {
    "whisper": """
import json, sys
import soundfile
from faster_whisper import WhisperModel
folder, beam, threads, *clips = sys.argv[1:]
model = WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=int(threads))
for clip in clips:
    samples, _ = soundfile.read(clip, dtype="float32")
    found, _ = model.transcribe(samples, beam_size=int(beam), language="en", without_timestamps=True)
    print(json.dumps({"audio": clip, "text": " ".join(part.text for part in found)}), flush=True)
""",
    "conformer": """
import json, os, sys
import soundfile, torch
from pathlib import Path
from espnet2.bin.asr_inference import Speech2Text
folder, beam, threads, *clips = sys.argv[1:]
torch.set_num_threads(int(threads))
[config], [weights] = Path(folder).rglob("config.yaml"), Path(folder).rglob("*.pth")
os.chdir(folder)
model = Speech2Text(str(config), str(weights), beam_size=int(beam), ctc_weight=0.5)
for clip in clips:
    samples, _ = soundfile.read(clip, dtype="float32")
    print(json.dumps({"audio": clip, "text": model(samples)[0][0]}), flush=True)
""",
}
"""What each peer does with FOLDER BEAM THREADS CLIPS: a line of JSON a clip, as `pqm transcribe --format json`."""


@dataclass(frozen=True)
class Run:
    """What a process took, and the texts that it found by audio file."""

    seconds: float
    processor_s: float
    peak_bytes: int
    texts: Mapping[str, str]


def main() -> None:
    """Measure, print a line a way, and write."""
    wanted = options()
    about = meta(0, wanted.threads)
    heard_sets = sets(wanted)
    models = {wanted.model.name: ("conformer", wanted.model)}
    models |= {f"whisper-{folder.name}": ("whisper", folder) for folder in wanted.whisper}
    found = {}
    for name, (kind, folder) in models.items():
        packed = pack(folder, wanted.work / name)
        parts = {
            part: heard(ways(kind, folder, packed, clips, wanted.threads), clips, wanted)
            for part, clips in heard_sets.items()
        }
        found[name] = {"kind": kind, "beam": BEAMS[kind], "peer": PEERS[kind], "sets": parts}
        print(name, json.dumps(found[name], indent=2), flush=True)
    sizes = {
        part: {"clips": len(clips), "seconds": round(sum(clip.seconds for clip in clips), 2)}
        for part, clips in heard_sets.items()
    }
    meta_of_runs = about | {"turns": wanted.turns, "quick": wanted.quick}
    write_json(wanted.out, {"meta": meta_of_runs, "sets": sizes, "models": found})


def options() -> argparse.Namespace:
    """The options that were given.

    Raises:
        PqmError: if a folder is not there.
    """
    sizes = {"clips": (10, 2, "clips, each of another reader"), "turns": (2, 1, "times that each way runs")}
    made = parser(__doc__ or "", Path(__file__).with_suffix(".json"), **sizes)
    made.add_argument("--whisper", type=Path, nargs="*", default=[], help="CTranslate2 folders of Whisper models")
    made.add_argument("--work", type=Path, default=Path("build/hear"), help="where models are packed (build/hear)")
    made.add_argument("--threads", type=int, default=n_cores(), help="threads of each process (default all cores)")
    wanted = parse(made)
    for folder in wanted.whisper:
        if not folder.is_dir():
            raise PqmError(f"--whisper {folder} is not there")
    return wanted


def sets(wanted: argparse.Namespace) -> dict[str, list[Clip]]:
    """What is heard, by the name that the results have for it."""

    def short(files: list[Path]) -> list[Path]:
        return [path for path in files if SHORT_S[0] <= soundfile.info(path).duration <= SHORT_S[1]][:1]

    everything = [clip_of(path) for path in sorted(wanted.speech.rglob("*.flac"))]
    alone = min(everything, key=lambda clip: (abs(clip.seconds - ALONE_S), clip.path.name))
    return {
        "clips": readers_clips(wanted.speech, wanted.clips, middling),
        "short": readers_clips(wanted.speech, wanted.clips, short),
        "alone": [alone],
    }


def pack(base: Path, out: Path) -> Path:
    """The base in 4 bits as `pqm quantize` makes it, made once.

    Raises:
        PqmError: if that fails.
    """
    if not out.is_dir():
        out.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pqm_plugin.commands", "quantize", str(base), str(out)]
        if subprocess.run(command, check=False).returncode:
            raise PqmError(f"pqm quantize {base} failed")
    return out


def ways(kind: str, base: Path, packed: Path, clips: Sequence[Clip], threads: int) -> dict[str, list[str]]:
    """The commands that turn the clips into words, by what they are called."""
    paths = [str(clip.path.resolve()) for clip in clips]
    beam = str(BEAMS[kind])
    ours = [sys.executable, "-m", "pqm_plugin.commands", "transcribe", str(packed), *paths]
    ours += ["--format", "json", "--quiet"]
    ours += ["--beam_size", beam, "--threads", str(threads), *_CTC[kind], "--runtime"]
    peer = [sys.executable, "-c", _PROGRAMS[kind], str(base.resolve()), beam, str(threads), *paths]
    return {name: [*ours, *options] for name, options in _OURS[kind].items()} | {PEERS[kind]: peer}


def heard(commands: Mapping[str, list[str]], clips: Sequence[Clip], wanted: argparse.Namespace) -> dict[str, Any]:
    """What each way took and found, and what share of torch and of the peer those through ONNX Runtime took."""
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(wanted.turns):
        for name, command in commands.items():
            runs[name].append(watched(command, wanted.threads))
    found: dict[str, Any] = {name: row(of, clips) for name, of in runs.items()}
    ours = [name for name in commands if name.startswith("onnx")]
    for name in ours:
        found[name]["over"] = {
            other: {
                what: spread(ratios([getattr(run, what) for run in runs[name]], [getattr(run, what) for run in of]))
                for what in ("seconds", "processor_s", "peak_bytes")
            }
            for other, of in runs.items()
            if other not in ours
        }
    return found


def row(runs: Sequence[Run], clips: Sequence[Clip]) -> dict[str, Any]:
    """The numbers of one way; errors by Whisper's English normaliser."""
    normal = EnglishTextNormalizer()
    pairs = [(normal(clip.text), normal(runs[0].texts[str(clip.path.resolve())])) for clip in clips]
    found = jiwer.process_words([truth for truth, _ in pairs], [text for _, text in pairs])
    return {
        "seconds": spread([run.seconds for run in runs], 3),
        "processor_s": spread([run.processor_s for run in runs], 3),
        "peak_mb": round(max(run.peak_bytes for run in runs) / 1e6),
        "errors": found.substitutions + found.deletions + found.insertions,
        "words": found.hits + found.substitutions + found.deletions,
    }


def watched(command: list[str], threads: int) -> Run:
    """Run a process to its end.

    Raises:
        PqmError: if it fails.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    before, start, peak = os.times(), time.perf_counter(), [0]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:

        def watch() -> None:
            while process.poll() is None:
                peak[0] = max(peak[0], peak_rss_of(process.pid))
                time.sleep(_WATCH_S)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        output = process.communicate()[0]
    seconds = time.perf_counter() - start
    watcher.join()
    after = os.times()
    if process.returncode:
        raise PqmError(f"{' '.join(command[:4])} … ended with status {process.returncode}")
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return Run(seconds, spent, peak[0], {row["audio"]: row["text"] for row in rows})


if __name__ == "__main__":
    main()
