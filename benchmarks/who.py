"""Can it be told who of the enrolled speaks? Two ways that need nothing but what is here, on clips of over 3 seconds.

By sound: each reader's cepstra of the first 40 % of the clips (at most 2.5 minutes) are a Gaussian with full
covariance, drawn a tenth of the way to that of all, and a clip of the last 40 % is whose it fits best. By words:
decoded folders of a recipe (`--exp`, those that hold `decode_nf4+speaker` and `decode_nf4+other…`) have a score of each
test clip by its speaker's adapter and by others'; the highest should be the speaker's own. docs/serve.md quotes
`benchmarks/who.json`. A few minutes on one core.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import soundfile
from scipy.fft import dct

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import SAMPLE_RATE, SHARED, meta
from pqm_plugin.corpus.samples import resample
from pqm_plugin.files import write_json

SHORTEST_S = 3.0
ENROLLED_S = 150.0
_LEAST_S = 90.0
_PARTS = (0.4, 0.6)
_SHRUNK = 0.1
_N_CEPSTRA = 20
_LOUD = 7.0
"""A frame whose loudest band is further below the loudest frames, in nepers of power, is not speech."""

Gaussian = tuple[np.ndarray, np.ndarray, float]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED / "data", help="LibriSpeech/dev-clean and common_voice")
    parser.add_argument("--exp", type=Path, nargs="*", default=[], help="model folders that stage 6 decoded in")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    wanted = parser.parse_args()
    about = meta(0, 1)
    readers: dict[str, list[Path]] = {}
    for path in sorted((wanted.data / "LibriSpeech/dev-clean").rglob("*.flac")):
        readers.setdefault(path.name.split("-")[0], []).append(path)
    speakers: dict[str, list[Path]] = {}
    with (wanted.data / "common_voice/corpus.tsv").open(encoding="utf-8") as rows:
        for row in csv.DictReader(rows, delimiter="\t"):
            speakers.setdefault(row["speaker"], []).append(wanted.data / "common_voice" / row["path"])
    sound = {"ten readers": by_sound(readers), "common_voice": by_sound(speakers)}
    words = {f"{folder.parent.name}/{folder.name}": by_words(folder) for folder in wanted.exp}
    print(json.dumps({"by_sound": sound, "by_words": words}, indent=2))
    write_json(wanted.out, {"meta": about, "by_sound": sound, "by_words": words})


def by_sound(clips: Mapping[str, list[Path]]) -> dict[str, Any]:
    """How many clips are given to whose they are."""
    heard = {name: [cepstra(path) for path in paths] for name, paths in clips.items()}
    heard = {name: of for name, of in heard.items() if sum(seconds for seconds, _ in of) >= _LEAST_S}
    enrolled = {name: np.vstack(list(_first(of))) for name, of in heard.items()}
    everybody = np.cov(np.vstack(list(enrolled.values())).T)
    models = {name: _gaussian(frames, everybody) for name, frames in enrolled.items()}
    n_right = n = 0
    for name, of in heard.items():
        for seconds, frames in of[int(_PARTS[1] * len(of)) :]:
            if seconds > SHORTEST_S:
                n += 1
                n_right += name == max(models, key=lambda other: _fit(frames, models[other]))
    return _share(n_right, n, len(models))


def _share(n_right: int, n: int, n_voices: int) -> dict[str, Any]:
    return {"voices": n_voices, "clips": n, "right": n_right, "right_percent": round(100 * n_right / max(n, 1), 1)}


def _first(of: list[tuple[float, np.ndarray]]) -> Iterator[np.ndarray]:
    enrolled_s = 0.0
    for seconds, frames in of[: int(_PARTS[0] * len(of))]:
        if enrolled_s < ENROLLED_S:
            enrolled_s += seconds
            yield frames


def cepstra(path: Path) -> tuple[float, np.ndarray]:
    """Seconds, and cepstra with their differences of the frames that are speech, float32 (n_frames, 39)."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    sound = resample(samples.mean(1), rate, SAMPLE_RATE)
    power = librosa.feature.melspectrogram(y=sound, sr=SAMPLE_RATE, n_fft=400, hop_length=160, n_mels=80)
    mel = np.log(power.T + 1e-10)
    found = dct(mel, axis=1, norm="ortho")[:, :_N_CEPSTRA]
    frames = np.hstack([found[:, 1:], np.gradient(found, axis=0)])
    loudest = mel.max(1)
    return len(sound) / SAMPLE_RATE, frames[loudest > np.percentile(loudest, 98) - _LOUD].astype(np.float32)


def _gaussian(frames: np.ndarray, everybody: np.ndarray) -> Gaussian:
    covariance = (1 - _SHRUNK) * np.cov(frames.T) + _SHRUNK * everybody
    return frames.mean(0), np.linalg.inv(covariance), float(np.linalg.slogdet(covariance)[1])


def _fit(frames: np.ndarray, model: Gaussian) -> float:
    mean, inverse, logdet = model
    off = frames - mean
    return float(-np.einsum("ij,jk,ik->i", off, inverse, off).mean() - logdet)


def by_words(folder: Path) -> dict[str, Any]:
    """How many clips have their best score by their speaker's own adapter."""
    scores: dict[str, dict[str, float]] = {}
    for decoded in sorted(folder.glob("decode_nf4+*")):
        system = decoded.name.removeprefix("decode_nf4+")
        if system != "speaker" and not system.startswith("other"):
            continue
        for part in sorted(decoded.glob("*/parts/*.jsonl")):
            for row in map(json.loads, part.read_text(encoding="utf-8").splitlines()):
                if row.get("audio_s", 0) > SHORTEST_S:
                    scores.setdefault(row["utterance"], {})[system] = row["score"]
    found = [max(of, key=lambda system: of[system]) for of in scores.values() if len(of) > 1]
    n_voices = max((len(of) for of in scores.values()), default=0)
    return _share(found.count("speaker"), len(found), n_voices)


if __name__ == "__main__":
    main()
