"""One model in a process of its own, whose memory the benchmark reads from outside at every step that is said."""

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import soundfile
import torch

from benchmarks.common import whole_float32_everywhere
from benchmarks.openers import import_ours, import_stock, open_mode, stock
from pqm_plugin.models.options import SearchOptions


def main() -> None:
    """Open the model of a folder in a mode, decode the clips, and wait for a line after each step."""
    folder, mode, beam, device, *clips = sys.argv[1:]
    torch.set_num_threads(1)
    whole_float32_everywhere()
    audio = [soundfile.read(clip, dtype="float32")[0] for clip in clips]
    if mode == "stock":
        import_stock()
    else:
        import_ours(Path(folder))
    # On a CUDA device its own memory counts, which is empty as yet.
    say(step="ready", **({} if device == "cpu" else {"resident_bytes": 0}))
    start = time.perf_counter()
    recognize = opened(Path(folder), mode, int(beam), device)
    say(step="opened", s=time.perf_counter() - start, **device_memory(device))
    start = time.perf_counter()
    with torch.no_grad():
        texts = [recognize(samples) for samples in audio]
    say(step="decoded", s=time.perf_counter() - start, texts=texts, **device_memory(device))


def device_memory(device: str) -> dict[str, int]:
    """The peak of a CUDA device's memory since the last call, in place of the process's."""
    if device == "cpu":
        return {}
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return {"peak_bytes": peak}


def opened(folder: Path, mode: str, beam: int, device: str) -> Any:
    """What gives the words of audio: stock ESPnet, the float model here, or the packed one in a mode."""
    search = SearchOptions(beam_size=beam)
    if mode == "stock":
        theirs = stock(folder, search, device)
        return lambda samples: theirs(samples)[0][0]
    recognizer = open_mode(folder, mode, search, device)
    return lambda samples: recognizer.recognize([np.asarray(samples)])[0].text


def say(**what: Any) -> None:
    """Tell the benchmark, and go on when it says so."""
    print("PQM " + json.dumps(what), flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
