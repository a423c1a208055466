"""How fast the batched search decodes beside stock ESPnet: the same model, beam and words.

`python benchmarks/decode.py --out FILE` decodes some utterances of real speech with ESPnet's Speech2Text, and with the
same weights here, in float32 and in 4 bits, one by one and in a batch, at beam 10 and 1. All take turns in one process,
so that what else the machine does meets every one of them. Features are part of every time. Ratios are medians over the
turns, each against stock in the same turn.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from espnet2.bin.asr_inference import Speech2Text

from benchmarks.common import ROOT, SHARED, ceilings, meta, spread
from pqm_plugin.errors import PqmError
from pqm_plugin.files import write_json
from pqm_plugin.models import espnet_folder
from pqm_plugin.models.families import family_of
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.quantize.layers import quantize_layers
from pqm_plugin.stages.config import load_config
from pqm_plugin.stages.quantize import quantized_kinds, weight_format

Decoder = Callable[[Sequence[np.ndarray]], list[str]]
BEAMS = (10, 1)
CONFIG = ROOT / "egs" / "librispeech" / "conf" / "pqm.yaml"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--model", type=Path, default=SHARED / "models" / "conformer_small", help="ESPnet experiment")
    parser.add_argument("--speech", type=Path, default=SHARED / "data/LibriSpeech/dev-clean", help="folder of readers")
    parser.add_argument("--utterances", type=int, default=8, help="how many, of as many readers (default 8)")
    parser.add_argument("--batch_size", type=int, default=8, help="utterances of a batch (default 8)")
    parser.add_argument("--repeats", type=int, default=5, help="turns (default 5)")
    parser.add_argument("--threads", type=int, default=2, help="threads of every decoder (default 2)")
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    about = meta(seed=0, n_threads=wanted.threads)
    audio = clips(wanted.speech, wanted.utterances)
    found: dict[str, Any] = {"utterances": len(audio), "audio_s": round(seconds(audio), 1)}
    for beam in BEAMS:
        search = SearchOptions(beam_size=beam, batch_size=wanted.batch_size)
        found[f"beam{beam}"] = compare(decoders(wanted.model, search), audio, wanted.repeats)
    write_json(wanted.out, {"meta": about, "ceilings": ceilings(), "decode": found})
    print(json.dumps(found, indent=2))


def clips(speech: Path, n: int) -> list[np.ndarray]:
    """One utterance of each of `n` readers, that of middling length; the longest first, as stage 6 batches them."""
    readers = sorted(folder for folder in speech.iterdir() if folder.is_dir())[:n]
    if len(readers) < n:
        raise PqmError(f"{speech}: {len(readers)} readers are there, --utterances asks for one each of {n}")
    files = [sorted(reader.rglob("*.flac"), key=lambda path: path.stat().st_size) for reader in readers]
    audio = [soundfile.read(found[len(found) // 2], dtype="float32")[0] for found in files]
    return sorted(audio, key=len, reverse=True)


def seconds(audio: Sequence[np.ndarray]) -> float:
    """Length of audio of 16 kHz."""
    return sum(map(len, audio)) / 16000


def decoders(model: Path, search: SearchOptions) -> Mapping[str, Decoder]:
    """Stock ESPnet, and this package's recognisers of the same weights; names end in the batch size."""
    config = load_config(CONFIG).quantize
    full = family_of(model).load_float(model, search, "cpu")
    packed = family_of(model).load_float(model, search, "cpu")
    quantize_layers(packed.network, list(quantized_kinds(packed, config)), weight_format(config))
    for recognizer in (full, packed):
        recognizer.network.eval()
        if recognizer.max_batch != search.batch_size:
            raise PqmError(f"{model}: the batched search does not fit this model, see the log")
    found: dict[str, Decoder] = {"stock": stock(model, search)}
    for size in sorted({1, search.batch_size}):
        found[f"full_batch{size}"] = partial(decode, full, size)
        found[f"nf4_batch{size}"] = partial(decode, packed, size)
    return found


def stock(model: Path, search: SearchOptions) -> Decoder:
    """ESPnet's own inference, as its users call it."""
    with espnet_folder.config_file(model) as config:
        speech2text = Speech2Text(
            str(config),
            str(espnet_folder.weights_file(model)),
            beam_size=search.beam_size,
            ctc_weight=search.ctc_weight,
        )
    return lambda audio: [speech2text(one)[0][0] for one in audio]


def decode(recognizer: Recognizer, size: int, audio: Sequence[np.ndarray]) -> list[str]:
    """Words of each, `size` at a time."""
    batches = (audio[start : start + size] for start in range(0, len(audio), size))
    return [found.text for batch in batches for found in recognizer.recognize(batch)]


def compare(systems: Mapping[str, Decoder], audio: Sequence[np.ndarray], repeats: int) -> dict[str, Any]:
    """Real-time factor of every system, and how many times faster than stock it is."""
    words = {name: decoder(audio) for name, decoder in systems.items()}  # also warms up
    if not words["stock"] == words["full_batch1"] or not all(same(words, name) for name in words):
        raise PqmError("the decoders do not find the same words, so their times cannot be compared")
    took: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(repeats):
        for name, decoder in systems.items():
            start = time.perf_counter()
            decoder(audio)
            took[name].append(time.perf_counter() - start)
    found: dict[str, Any] = {}
    for name, runs in took.items():
        ratios = [theirs / ours for theirs, ours in zip(took["stock"], runs, strict=True)]
        found[name] = {"rtf": spread([run / seconds(audio) for run in runs])}
        if name != "stock":
            found[name]["speedup"] = spread(ratios, 2)
    largest = max((name for name in found if name.startswith("full")), key=lambda name: int(name.partition("batch")[2]))
    return {"speedup": found[largest]["speedup"]["median"], "same_words": True, **found}


def same(words: Mapping[str, list[str]], name: str) -> bool:
    """Whether a system's words are those that its weights give one by one."""
    return name == "stock" or words[name] == words[f"{name.partition('_')[0]}_batch1"]


if __name__ == "__main__":
    main()
