#!/usr/bin/env python3
"""Write the table of the Free Spoken Digit Dataset for egs/own: FOLDER holds DIGIT_SPEAKER_INDEX.wav.

Utterances are named SPEAKER-INDEX-DIGIT, so that each digit comes into the train, the dev and the test of each speaker.
"""

import argparse
import os
import re
import sys
from pathlib import Path

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def fsdd_table(folder: Path, out: Path) -> str:
    """Return the table; paths are relative to the folder of `out`."""
    lines = ["path\ttext\tspeaker\tutterance"]
    for path in sorted(folder.glob("*.wav")):
        named = re.fullmatch(r"(\d)_([a-z]+)_(\d+)", path.stem)
        if named is None:
            print(f"{path}: is not named DIGIT_SPEAKER_INDEX.wav, and left out", file=sys.stderr)
            continue
        digit, speaker, index = named.groups()
        link = os.path.relpath(path, out.parent)
        lines.append(f"{link}\t{DIGITS[int(digit)]}\t{speaker}\t{speaker}-{int(index):02d}-{digit}")
    if len(lines) == 1:
        sys.exit(f"fsdd_table.py: {folder} holds no DIGIT_SPEAKER_INDEX.wav: give the folder `recordings`")
    return "".join(f"{line}\n" for line in lines)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the dataset's folder recordings")
    parser.add_argument("out", type=Path, help="the table to write, such as fsdd.tsv")
    arguments = parser.parse_args()
    text = fsdd_table(arguments.folder, arguments.out)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
