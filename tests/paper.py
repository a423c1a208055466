"""Corpora with the readers and talks of the paper, and as many utterances of each, of noise."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from pqm_plugin.corpus.partition import find_listing

RATE_HZ = 16000
CHAPTERS = {
    "115": {"121720": 24, "121896": 16, "122944": 108},
    "210": {"129396": 184},
    "2368": {"157054": 35, "157056": 39, "157057": 43, "157066": 41},
    "3389": {"130127": 48, "13247": 43, "13248": 39, "13250": 45},
    "3615": {"14672": 46, "14674": 58, "14677": 52},
    "479": {"107479": 34, "107480": 30, "126480": 32, "134717": 59},
    "492": {"131882": 43, "131887": 34, "131890": 36, "131899": 39},
    "525": {"126965": 154},
    "6553": {"82558": 55, "86683": 97},
    "829": {"123190": 43, "123191": 45, "123192": 58},
}
TALKS = {group: sum(map(len, splits.values())) for group, splits in find_listing("paper", "tedlium3").groups.items()}


def write_librispeech(root: Path, n_samples: int = 160) -> Path:
    """Write the paper's readers, one more, and four to teach, one of whom is a target; every utterance is the same."""
    root.mkdir()
    seed = root / "one.flac"
    soundfile.write(seed, _noise(n_samples), RATE_HZ)
    sets = {"train-clean-360": {**CHAPTERS, "1": {"2": 3}}, "train-clean-100": {name: {"9": 2} for name in "345"}}
    sets["train-clean-100"]["115"] = {"9": 2}
    for set_name, readers in sets.items():
        for reader, chapters in readers.items():
            for chapter, count in chapters.items():
                folder = root / set_name / reader / chapter
                folder.mkdir(parents=True)
                names = [f"{reader}-{chapter}-{index:04d}" for index in range(count)]
                for name in names:
                    shutil.copyfile(seed, folder / f"{name}.flac")
                (folder / f"{reader}-{chapter}.trans.txt").write_text("".join(f"{name} A WORD\n" for name in names))
    return root


def write_tedlium(
    root: Path, segment_s: float = 0.01, words: Callable[[int], str] = lambda place: f"number n{place}"
) -> Path:
    """Write the paper's talks, another one of a target, and two to teach; `words` are those of a place in the list."""
    data = root / "TEDLIUM_release-3/speaker-adaptation"
    talks = {"test": TALKS, "train": {"AmandaBurden_2009": 4, "Teacher_2001": 3, "Other_2001": 3}}
    for part, lengths in talks.items():
        for kind in ("sph", "stm"):
            (data / part / kind).mkdir(parents=True)
        for talk, count in lengths.items():
            lines = [f"{talk} 1 inter_segment_gap 0 {segment_s} <o,,unknown> ignore_time_segment_in_scoring\n"]
            for index in range(count):
                start_s = (index + 1) * segment_s
                if index % 9 == 4:
                    lines.append(f"{talk} 1 {talk} {start_s - segment_s / 2} {start_s} <NA> an <unk> word\n")
                lines.append(f"{talk} 1 {talk} {start_s} {start_s + segment_s} <NA> it 's(2) <sil> {words(index)} \n")
            (data / part / "stm" / f"{talk}.stm").write_text("".join(lines))
            samples = _noise(round(RATE_HZ * segment_s) * (count + 2))
            soundfile.write(data / part / "sph" / f"{talk}.sph", samples, RATE_HZ, "PCM_16", "LITTLE", "NIST")
    return root


def _noise(n_samples: int) -> np.ndarray:
    return np.random.default_rng(n_samples).integers(-3000, 3000, n_samples, dtype=np.int16)
