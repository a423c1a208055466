"""Decode with ESPnet's own program: the baselines that every number is compared with."""

import re
import shlex
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import torch

from pqm_plugin.errors import PqmError
from pqm_plugin.files import no_space_as_error
from pqm_plugin.models.espnet import folder as espnet_folder
from pqm_plugin.models.espnet import library as espnet_library
from pqm_plugin.models.interface import StockDecode
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.models.stock import run_stock

BASELINES = {
    "espnet": "stock espnet2.bin.asr_inference, float32",
    "int8": "stock espnet2.bin.asr_inference with ESPnet's dynamic int8 (--quantize_asr_model)",
}
PROGRESS = b"best hypo"
_STAMP = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) .*INFO: (speech length|best hypo):")


def decode_stock(key: str, folder: Path, wav_scp: Path, out: Path, search: SearchOptions, log: Path) -> StockDecode:
    """Run `espnet2.bin.asr_inference` on `wav_scp` and read what it wrote under `out`.

    Raises:
        PqmError: with the last line of the log, if it failed or if int8 quantised no layer.
    """
    with espnet_folder.config_file(folder) as config:
        weights = espnet_folder.weights_file(folder)
        command = _command(key, config, weights, wav_scp, out, search)
        peak_rss_bytes = run_stock(command, log)
        shown = _command(key, folder / espnet_folder.CONFIG, weights, wav_scp, out, search)
    text = log.read_text(encoding="utf-8", errors="replace")
    words = _hypotheses(out)
    order, times = _order(wav_scp), _decode_s(text)
    if len(times) != len(order) or words.keys() != set(order):
        lost = sorted(set(order) - words.keys())
        raise PqmError(f"{log}: stock decoding gave no words for {', '.join(lost[:3]) or 'some utterance'}")
    seconds = dict(zip(order, times, strict=True))
    return StockDecode(words, seconds, peak_rss_bytes, _model_bytes(key, folder, weights), shlex.join(shown))


def _command(key: str, config: Path, weights: Path, wav_scp: Path, out: Path, search: SearchOptions) -> list[str]:
    return [
        *(sys.executable, "-m", "espnet2.bin.asr_inference", "--ngpu", "0", "--num_workers", "1"),
        *("--asr_train_config", str(config), "--asr_model_file", str(weights), "--output_dir", str(out)),
        *("--data_path_and_name_and_type", f"{wav_scp},speech,sound"),
        *("--beam_size", str(search.beam_size), "--ctc_weight", str(search.ctc_weight)),
        *("--penalty", str(search.length_bonus), "--maxlenratio", str(search.max_length_ratio)),
        *("--quantize_asr_model", str(key == "int8").lower()),
    ]


def _decode_s(log: str) -> list[float]:
    """Seconds from each utterance's start to its best hypothesis, as ESPnet's calculate_rtf.py counts them."""
    seconds: list[float] = []
    start = datetime.min
    for line in log.splitlines():
        if match := _STAMP.match(line):
            stamp = datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S,%f")
            if match[2] == "speech length":
                start = stamp
                seconds.append(0.0)
            elif seconds:
                seconds[-1] = (stamp - start).total_seconds()
    return seconds


def _order(wav_scp: Path) -> list[str]:
    return [line.split(maxsplit=1)[0] for line in wav_scp.read_text(encoding="utf-8").splitlines()]


def _model_bytes(key: str, folder: Path, weights: Path) -> int:
    """Size on disk; ESPnet never writes its int8 model, so it is written here once, to be weighed."""
    if key != "int8":
        return weights.stat().st_size
    with espnet_folder.config_file(folder) as config, tempfile.TemporaryFile() as file:
        quantized = espnet_library.Speech2Text(config, str(weights), quantize_asr_model=True).asr_model
        if not any("quantized" in type(module).__module__ for module in quantized.modules()):
            raise PqmError(f"{weights}: dynamic int8 quantised no layer; the int8 row would be the float model")
        with no_space_as_error(Path(tempfile.gettempdir())):
            torch.save(quantized.state_dict(), file)
        return file.tell()


def _hypotheses(out: Path) -> dict[str, str]:
    lines = (out / "1best_recog" / "text").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition(" ") for line in lines if line.strip())
    return {utterance: words.strip() for utterance, _, words in pairs}
