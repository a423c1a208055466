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
from espnet2.bin.asr_inference import Speech2Text

from pqm_plugin.models import espnet_folder
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.quantize.checkpoint import load_packed


def main() -> None:
    """Open the model of a folder in a mode, decode the clips, and wait for a line after each step."""
    folder, mode, beam, *clips = sys.argv[1:]
    torch.set_num_threads(1)
    audio = [soundfile.read(clip, dtype="float32")[0] for clip in clips]
    say(step="ready")
    start = time.perf_counter()
    recognize = opened(Path(folder), mode, int(beam))
    say(step="opened", s=time.perf_counter() - start)
    start = time.perf_counter()
    with torch.no_grad():
        texts = [recognize(samples) for samples in audio]
    say(step="decoded", s=time.perf_counter() - start, texts=texts)


def opened(folder: Path, mode: str, beam: int) -> Any:
    """What gives the words of audio: stock ESPnet, the float model here, or the packed one in a mode."""
    search = SearchOptions(beam_size=beam)
    family = family_of(folder)
    if mode == "stock":
        with espnet_folder.config_file(folder) as config:
            weights = str(family.weights_file(folder))
            stock = Speech2Text(config, weights, beam_size=beam, ctc_weight=search.ctc_weight)
        return lambda samples: stock(samples)[0][0]
    if mode == "full":
        recognizer = family.load_float(folder, search, "cpu")
    else:
        recognizer = family.load_skeleton(folder, search, "cpu")
        load_packed(folder / "model.safetensors", recognizer.network, mode)
    recognizer.network.eval()
    return lambda samples: recognizer.recognize([np.asarray(samples)])[0].text


def say(**what: Any) -> None:
    """Tell the benchmark, and go on when it says so."""
    print("PQM " + json.dumps(what), flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
