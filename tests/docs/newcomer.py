"""A newcomer who follows README: from what `make demo` leaves to the words of a file of their own.

`python -m tests.docs.newcomer [DEMO]` does so on the output of egs/demo/run.sh, with a voice that it never heard.
"""

import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile

from pqm_plugin.metrics.wer import counts_of, total
from tests.docs.pages import ROOT, commands, run_apart

DEMO = ROOT / "egs/demo"
MODEL = "exp/asr_train_espnet_aed_nf4"
N_RECORDINGS = 12
WORST_WER = 0.5
"""A model without an adapter that fits, or with one that learned wrong words, is beyond this."""


def follow(desk: Path) -> str:
    """Run README's commands, as they stand there, in `desk`; gives their output, without the log.

    Raises:
        AssertionError: if one fails, or README has not one block of them.
    """
    [block] = commands("../README.md")
    if not (desk / ".venv").exists():
        (desk / ".venv").symlink_to(sys.prefix)
    return run_apart(block, desk)[0]


def record(
    desk: Path, sentences: Sequence[str], speak: Callable[[Sequence[str]], Sequence[np.ndarray]], rate: int
) -> None:
    """Lay out what README asks of a newcomer: a folder of recordings, the list of their words, and one file more.

    Args:
        sentences: one a recording; the last is of the file more.
        speak: gives the sound of each sentence, int16 (n_samples,) at `rate` in Hz.
    """
    (desk / "recordings").mkdir(parents=True)
    *to_learn, new = speak(sentences)
    for number, samples in enumerate(to_learn, start=1):
        soundfile.write(desk / f"recordings/{number:03d}.wav", samples, rate)
    lines = [f"{number:03d} {words}\n" for number, words in enumerate(sentences[:-1], start=1)]
    (desk / "recordings/text").write_text("".join(lines))
    soundfile.write(desk / "new.wav", new, rate)


def main(demo: Path) -> None:
    """Follow README on the demo's output, which stays as it is, and compare the words with what was said.

    Raises:
        AssertionError: if a command fails, or more than `WORST_WER` of the words are wrong.
    """
    sys.path.insert(0, str(DEMO / "local"))
    from espeak import SAMPLE_RATE, Voice, synthesize
    from grammar import unique_sentences

    voice = Voice("en-us", "m6", 50, 170, 50)
    sentences = list(itertools.islice(unique_sentences(seed=1), N_RECORDINGS + 1))
    with tempfile.TemporaryDirectory() as scratch:
        desk = Path(scratch)
        shutil.copytree(demo / MODEL, desk / "egs/demo" / MODEL, ignore=shutil.ignore_patterns("decode_*"))
        shutil.copytree(demo / "data", desk / "egs/demo/data")
        record(
            desk, sentences, lambda each: [np.frombuffer(said, "<i2") for said in synthesize(voice, each)], SAMPLE_RATE
        )
        said = follow(desk)
    print(said)
    heard = said.splitlines()[-1]
    counted = total(counts_of([sentences[-1].upper()], [heard]), "a newcomer")
    assert counted.rate <= WORST_WER, f"said was {sentences[-1]!r}, heard was {heard!r}"


if __name__ == "__main__":
    main(Path(*sys.argv[1:]) if sys.argv[1:] else DEMO)
