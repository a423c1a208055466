#!/usr/bin/env python3
"""Make a stand-in for TED-LIUM 3 from a LibriSpeech folder: its layout, its files' forms, other speech.

A reader's utterances, with silence between them, become a talk in NIST SPHERE; its .stm has all that those of the
real corpus have: gaps and parts that are not scored, unknown words, second pronunciations, blanks before apostrophes,
sounds. The recipe can so be tried without the real corpus. Numbers from it say nothing about talks. The same options
give the same bytes.
"""

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from pqm_plugin.corpus.audio import load_audio
from pqm_plugin.corpus.readers.librispeech import read
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.files import whole_folder

RATE_HZ = 16000
UNKNOWN_EVERY, SECOND_EVERY, SOUND_EVERY, SILENT_EVERY = 8, 4, 6, 5  # segments from one oddity to the next
GAP_S = (0.3, 1.5)
NOTE = "A stand-in for TED-LIUM 3, made from LibriSpeech by egs/tedlium3/local/make_standin.py. No TED talk is in it.\n"


@dataclass(frozen=True)
class Talk:
    """A talk to be made: its name, its speaker's utterances, and whether it is of a training set."""

    name: str
    utterances: Sequence[Utterance]
    trained: bool


def spoken(corpus: Path, set_name: str) -> dict[str, list[Utterance]]:
    """Map each reader of a set to the whole utterances, in order."""
    readers: dict[str, list[Utterance]] = {}
    for utterance in read(corpus, set_name):
        if utterance.audio and utterance.text:
            readers.setdefault(utterance.speaker, []).append(utterance)
    return readers


def as_transcribed(text: str, number: int) -> str:
    """The words of segment `number` as the .stm files write them."""
    words = text.lower().replace("'", " '").split()
    if number % UNKNOWN_EVERY == UNKNOWN_EVERY - 1:
        words[words.index(max(words, key=len))] = "<unk>"
    if number % SECOND_EVERY == 1:
        words[0] += "(2)"
    if number % SOUND_EVERY == 2:
        words.append("{NOISE}")
    if number % SILENT_EVERY == 3:
        words.insert(1, "<sil>")
    return " ".join(words)


def write_talk(talk: Talk, folder: Path, max_s: float, seed: str) -> int:
    """Write `sph/TALK.sph` and `stm/TALK.stm` of up to `max_s` seconds; returns how many utterances that took."""
    chance = random.Random(seed)
    person = talk.name if talk.trained else talk.name.rpartition("_")[0]
    label, gap_label = ("<NA>", "<NA>") if talk.trained else ("<o,f0,unknown>", "<o,,unknown>")
    gap_speaker = talk.name if talk.trained else "inter_segment_gap"
    samples, lines, n_samples, taken = [], [], 0, 0
    for number, utterance in enumerate(talk.utterances):
        speech = load_audio(utterance, RATE_HZ)
        gap = np.zeros(round(chance.uniform(*GAP_S) * RATE_HZ), np.float32)
        start, stop = n_samples + len(gap), n_samples + len(gap) + len(speech)
        if taken and stop > max_s * RATE_HZ:
            break
        if not talk.trained or number == 0:
            what = f"{n_samples / RATE_HZ:.2f} {start / RATE_HZ:.2f} {gap_label} ignore_time_segment_in_scoring"
            lines.append(f"{talk.name} 1 {gap_speaker} {what}\n")
        text = as_transcribed(utterance.text, number)
        lines.append(f"{talk.name} 1 {person} {start / RATE_HZ:.2f} {stop / RATE_HZ:.2f} {label} {text} \n")
        samples += [gap, speech]
        n_samples, taken = stop, taken + 1
    for kind in ("sph", "stm"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    values = np.round(np.clip(np.concatenate(samples), -1, 1 - 2**-15) * 32768).astype(np.int16)
    soundfile.write(folder / "sph" / f"{talk.name}.sph", values, RATE_HZ, "PCM_16", "LITTLE", "NIST")
    (folder / "stm" / f"{talk.name}.stm").write_text("".join(lines), encoding="utf-8")
    return taken


def link_layouts(root: Path) -> None:
    """Link the talks of `data` and of `legacy` into both layouts, as the real corpus does."""
    (root / "legacy/train").mkdir(parents=True)
    for kind in ("sph", "stm"):
        (root / "legacy/train" / kind).symlink_to(Path("../../data") / kind)
        for part, source in (("train", "data"), ("dev", "legacy/dev"), ("test", "legacy/test")):
            folder = root / "speaker-adaptation" / part / kind
            folder.mkdir(parents=True)
            for path in sorted((root / source / kind).iterdir()):
                (folder / path.name).symlink_to(Path("../../..") / source / kind / path.name)


def make(parsed: argparse.Namespace, root: Path) -> Iterator[str]:
    """Write the corpus into `root`; yields a line for each talk."""
    targets = list(spoken(parsed.librispeech, parsed.target_set).items())
    teachers = list(spoken(parsed.librispeech, parsed.sat_set).items())
    if len(targets) <= parsed.talks or len(teachers) < parsed.sat_talks:
        raise PqmError(
            f"{parsed.librispeech}: {len(targets)} readers of {parsed.target_set} and {len(teachers)} of "
            f"{parsed.sat_set} are too few for --talks {parsed.talks}, one for dev, and --sat_talks {parsed.sat_talks}"
        )
    places = [("legacy/test", entry) for entry in targets[: parsed.talks]]
    places.append(("legacy/dev", targets[parsed.talks]))
    places += [("data", entry) for entry in teachers[: parsed.sat_talks]]
    for place, (reader, utterances) in places:
        talk = Talk(f"Reader{reader}_2001", utterances, place == "data")
        taken = write_talk(talk, root / place, parsed.seconds, talk.name)
        yield f"{place}: {talk.name}, {taken} utterances of {reader}"
        if (reader, utterances) == targets[0]:
            # Another talk of a target speaker, in the training set: LoRA pre-training must leave it out.
            again = Talk(f"Reader{reader}_2002", utterances[taken:], True)
            yield f"data: {again.name}, {write_talk(again, root / 'data', 20, again.name)} utterances of {reader}"
    link_layouts(root)
    (root / "README").write_text(NOTE, encoding="utf-8")


def main() -> None:
    """Parse the command line and write the corpus, whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("librispeech", type=Path, help="folder of LibriSpeech")
    parser.add_argument("out", type=Path, help="folder that TEDLIUM_release-3 is written to")
    parser.add_argument(
        "--target_set", default="dev-clean", help="readers of the test and dev talks (default dev-clean)"
    )
    parser.add_argument("--sat_set", default="train-clean-5", help="readers of the training talks (train-clean-5)")
    parser.add_argument("--talks", type=int, default=4, help="talks for test (default 4)")
    parser.add_argument("--sat_talks", type=int, default=6, help="talks for training (default 6)")
    parser.add_argument("--seconds", type=float, default=180, help="a talk's length at most (default 180)")
    parsed = parser.parse_args()
    try:
        with whole_folder(parsed.out / "TEDLIUM_release-3") as root:
            for line in make(parsed, root):
                print(line, flush=True)
    except PqmError as error:
        sys.exit(f"make_standin.py: {error}")


if __name__ == "__main__":
    main()
