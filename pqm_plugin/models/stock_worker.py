"""A program that decodes with transformers alone: the stock baseline of Whisper and CTC models.

    python -P stock_worker.py --model FOLDER --wav_scp FILE --out FOLDER [--int8]

It writes `hypotheses.jsonl`, a line an utterance; with `--int8` the linear layers are torch's dynamic int8, and
`int8.json` says how large the model is on disk. Audio longer than the window is decoded by transformers' own
long-form generation. With `--task ctc` the best path of a CTC model is decoded.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import soundfile
import torch
from transformers import (
    AutoModelForCTC,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)


def main() -> None:
    """Parse the command line and decode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--wav_scp", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num_beams", type=int, default=1)
    parser.add_argument("--language", default="en")
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--task", choices=("generate", "ctc"), default="generate")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    processor, model, decode = _ctc(arguments.model) if arguments.task == "ctc" else _whisper(arguments.model)
    if arguments.int8:
        model = _in_int8(model, arguments.out / "int8.json")
    with (arguments.out / "hypotheses.jsonl").open("w", encoding="utf-8") as written:
        for line in arguments.wav_scp.read_text(encoding="utf-8").splitlines():
            utterance, path = line.split(maxsplit=1)
            row = {"utterance": utterance, **decode(model, processor, path, arguments)}
            written.write(json.dumps(row, ensure_ascii=False) + "\n")
            print(f"decoded utterance {utterance}: {row['text']}", flush=True)


def _whisper(folder: Path) -> tuple[Any, Any, Any]:
    processor = WhisperProcessor.from_pretrained(folder)
    return processor, WhisperForConditionalGeneration.from_pretrained(folder).eval(), _decode


def _ctc(folder: Path) -> tuple[Any, Any, Any]:
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    processor = Wav2Vec2Processor(extractor, Wav2Vec2CTCTokenizer.from_pretrained(folder))
    return processor, AutoModelForCTC.from_pretrained(folder).eval(), _decode_best_path


def _in_int8(model: Any, record: Path) -> Any:
    quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    layers = [module for module in quantized.modules() if isinstance(module, torch.ao.nn.quantized.dynamic.Linear)]
    # A subclass of Linear is left as it is without a word.
    left = sum(isinstance(module, torch.nn.Linear) for module in quantized.modules())
    if left or not layers:
        sys.exit(f"dynamic int8 left {left} of {left + len(layers)} linear layers in float: the int8 row would lie")
    with tempfile.TemporaryFile() as file:
        torch.save(quantized.state_dict(), file)
        record.write_text(json.dumps({"layers": len(layers), "model_bytes": file.tell()}), encoding="utf-8")
    return quantized


def _decode(model: Any, processor: Any, path: str, arguments: argparse.Namespace) -> dict[str, Any]:
    audio, rate = soundfile.read(path, dtype="float32")
    start = time.perf_counter()
    options = {"num_beams": arguments.num_beams, "return_timestamps": False}
    known = model.generation_config
    if getattr(known, "is_multilingual", hasattr(known, "lang_to_id")):
        options |= {"language": arguments.language, "task": "transcribe"}
    extractor = processor.feature_extractor
    if len(audio) > extractor.n_samples:
        found = processor(audio, sampling_rate=rate, return_tensors="pt", truncation=False, padding="longest")
        options["return_timestamps"] = True
    else:
        found = processor(audio, sampling_rate=rate, return_tensors="pt")
    with torch.no_grad():
        ids = model.generate(found.input_features, **options)
    text = processor.batch_decode(ids, skip_special_tokens=True)[0]
    return {"text": text.strip(), "decode_s": time.perf_counter() - start}


def _decode_best_path(model: Any, processor: Any, path: str, arguments: argparse.Namespace) -> dict[str, Any]:
    audio, rate = soundfile.read(path, dtype="float32")
    start = time.perf_counter()
    found = processor(audio, sampling_rate=rate, return_tensors="pt")
    with torch.no_grad():
        logits = model(found.input_values).logits
    text = processor.batch_decode(logits.argmax(-1))[0]
    return {"text": text.strip(), "decode_s": time.perf_counter() - start}


if __name__ == "__main__":
    main()
