#!/usr/bin/env python3
"""Store a set as MP3 and read it back, and write it anew in its own layout.

Who teaches the speaker-independent adapter should be heard as the target speakers are: where their recordings were MP3
once, they have nothing above a cut-off, and what else the codec leaves out. A set SET becomes SET-mp3, so that its
numbers say what they are of; utterances keep their names and their lengths. A set that is there as it is asked for is
left as it is; asked for otherwise, of another source or with another bit rate, it is made again.
"""

import argparse
import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from derived_sets import DerivedSet, audio_of, copy_tables, identity, say
from numpy.typing import NDArray

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

    def sounds() -> Iterator[tuple[Path, NDArray[np.float32], int]]:
        for path in files:
            samples, rate = soundfile.read(path, dtype="float32")
            yield path.relative_to(source), through(samples, rate, kbit_s), rate

    def texts() -> Iterator[tuple[Path, str]]:
        for path in source.rglob("*.trans.txt"):
            yield path.relative_to(source), path.read_text(encoding="utf-8-sig")

    record = {"request": {"kbit_s": kbit_s, "source": identity(source)}}
    DerivedSet(out / f"{set_name}{SUFFIX}", record, len(files), sounds, texts).make()


def keep(corpus: Path, set_name: str, out: Path) -> None:
    """Copy the set whole into `out` as it is.

    Raises:
        PqmError: if the corpus has no such set.
    """
    audio_of(corpus, set_name)
    source, target = corpus / set_name, out / set_name
    if target.is_dir():
        if identity(target) == identity(source):
            return
        say(f"{target} is not as {source} is; copying it again")
    with whole_folder(target) as scratch:
        shutil.copytree(source, scratch, dirs_exist_ok=True)


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
