#!/usr/bin/env python3
"""Store a set as MP3 and read it back, and write it anew in its own layout.

Who teaches the speaker-independent adapter should be heard as the target speakers are: where their recordings were MP3
once, they have nothing above a cut-off, and what else the codec leaves out. A set SET becomes SET-mp3, so that its
numbers say what they are of; utterances keep their names and their lengths. Sets that are whole are left as they are.
"""

import argparse
import io
import shutil
import sys
from pathlib import Path

import numpy as np
import soundfile
from derived_sets import audio_of, copy_tables
from numpy.typing import NDArray
from tqdm import tqdm

from pqm_plugin.errors import PqmError
from pqm_plugin.files import whole_folder
from pqm_plugin.processes import start_log

SUFFIX = "-mp3"
_LOWEST_KBIT_S, _HIGHEST_KBIT_S = 8, 160
"""Of MPEG-2 layer III, which 16 and 24 kHz have; libsndfile counts from the highest, 0, to the lowest, 1."""


def through(samples: NDArray[np.float32], rate: int, kbit_s: float) -> NDArray[np.float32]:
    """What is left of mono audio in [-1, 1] at a constant bit rate: as many samples, at the same places.

    The encoder puts silence before what it is given; it is found by correlation and cut off again.
    """
    stored = io.BytesIO()
    level = (_HIGHEST_KBIT_S - kbit_s) / (_HIGHEST_KBIT_S - _LOWEST_KBIT_S)
    soundfile.write(stored, samples, rate, format="MP3", bitrate_mode="CONSTANT", compression_level=level)
    stored.seek(0)
    heard, _ = soundfile.read(stored, dtype="float32")
    size = 1 << int(np.ceil(np.log2(len(samples) + len(heard))))
    match = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(samples, size)), size)
    delay = int(np.argmax(match[: max(1, len(heard) - len(samples) + 1)]))
    found = np.zeros_like(samples)
    kept = heard[delay : delay + len(samples)]
    found[: len(kept)] = kept
    return found


def store(corpus: Path, set_name: str, out: Path, kbit_s: float) -> None:
    """Write the set whole into `out`, under its name and `SUFFIX`.

    Raises:
        PqmError: if the corpus has no such set.
    """
    source, files = corpus / set_name, audio_of(corpus, set_name)
    target = out / f"{set_name}{SUFFIX}"
    if target.is_dir():
        return
    with whole_folder(target) as scratch:
        for path in tqdm(files, desc=target.name, unit="utterance"):
            samples, rate = soundfile.read(path, dtype="float32")
            heard = scratch / path.relative_to(source)
            heard.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(heard, through(samples, rate, kbit_s), rate, "PCM_16")
        for path in source.rglob("*.trans.txt"):
            shutil.copyfile(path, scratch / path.relative_to(source))


def keep(corpus: Path, set_name: str, out: Path) -> None:
    """Copy the set whole into `out` as it is.

    Raises:
        PqmError: if the corpus has no such set.
    """
    audio_of(corpus, set_name)
    if not (out / set_name).is_dir():
        with whole_folder(out / set_name) as scratch:
            shutil.copytree(corpus / set_name, scratch, dirs_exist_ok=True)


def main() -> int:
    """Store the sets that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="the LibriSpeech folder, which holds the sets")
    parser.add_argument("--sets", nargs="+", required=True, metavar="SET", help="sets to store")
    parser.add_argument("--keep", nargs="*", default=[], metavar="SET", help="sets to copy to OUT as they are")
    parser.add_argument("--out", type=Path, required=True, help="folder for the sets as they are read back")
    parser.add_argument("--kbit_s", type=float, default=24, help="bits a second, in thousands, 8 to 160 (default 24)")
    parsed = parser.parse_args()
    start_log()
    try:
        if not _LOWEST_KBIT_S <= parsed.kbit_s <= _HIGHEST_KBIT_S:
            raise PqmError(f"--kbit_s {parsed.kbit_s:g}: MP3 of this rate has {_LOWEST_KBIT_S} to {_HIGHEST_KBIT_S}")
        for set_name in parsed.sets:
            store(parsed.corpus, set_name, parsed.out, parsed.kbit_s)
        for set_name in parsed.keep:
            keep(parsed.corpus, set_name, parsed.out)
        copy_tables(parsed.corpus, parsed.out)
    except PqmError as error:
        print(f"through_mp3: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
