#!/usr/bin/env python3
"""Make the synthetic demo corpus: spoken commands from 24 synthetic voices, in the layout of LibriSpeech.

It needs no network and no recordings: the package espeakng-loader speaks. The same seed gives the same bytes.
A set that is complete is left alone, so that a run that was cut off goes on where it was.
"""

import argparse
import io
import itertools
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
from espeak import SAMPLE_RATE, Voice, synthesize
from grammar import unique_sentences
from scipy.signal import resample_poly

from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, whole_folder, write_json, write_text
from pqm_plugin.progress import Bar

OUTPUT_RATE = 16000  # in Hz
HEADROOM = 0.6  # the library comes near full scale, and resampling overshoots

TRAIN_VOICES = {
    "101": Voice("en-us", "m1", 50, 165, 50),
    "102": Voice("en-us", "f2", 50, 175, 55),
    "103": Voice("en-us", "m3", 40, 155, 40),
    "104": Voice("en-us", "f4", 55, 185, 50),
    "105": Voice("en", "m2", 50, 170, 50),
    "106": Voice("en", "f1", 45, 160, 60),
    "107": Voice("en", "m7", 55, 180, 45),
    "108": Voice("en", "Alicia", 50, 170, 50),
    "109": Voice("en-gb-x-rp", "m4", 45, 165, 50),
    "110": Voice("en-gb-x-rp", "f3", 55, 175, 50),
    "111": Voice("en-gb-x-gbclan", "Mike", 50, 170, 50),
    "112": Voice("en-gb-scotland", "Andrea", 50, 160, 50),
}
SAT_VOICES = {  # as fast and as lively as the targets, so that what they teach is not their own speed alone
    "201": Voice("en-gb-scotland", "m5", 55, 205, 60),
    "202": Voice("en-029", "f5", 60, 200, 65),
    "203": Voice("en-us-nyc", "Lee", 60, 195, 60),
    "204": Voice("en-gb-x-gbcwmd", "steph", 50, 200, 55),
    "205": Voice("en-gb-x-gbclan", "max", 60, 190, 40),
    "206": Voice("en-029", "Denis", 50, 210, 60),
    "207": Voice("en-us-nyc", "belinda", 55, 210, 60),
    "208": Voice("en-gb-scotland", "ed", 50, 200, 60),
}
TARGET_VOICES = {
    "301": Voice("en-029", "linda", 70, 210, 70),
    "302": Voice("en-gb-x-gbcwmd", "caleb", 50, 190, 60),
    "303": Voice("en-us-nyc", "grandma", 65, 205, 60),
    "304": Voice("en-gb-scotland", "zac", 50, 200, 60),
}


@dataclass(frozen=True)
class CorpusSet:
    """One folder of the corpus: whose voices, and how many sentences each of them says."""

    name: str
    voices: dict[str, Voice]
    n_utterances: int
    chapter: int
    about: str


SETS = (
    CorpusSet("train", TRAIN_VOICES, 160, 1, "what the base is trained on"),
    CorpusSet("valid", TRAIN_VOICES, 6, 2, "what its epochs are chosen by"),
    CorpusSet("heard", TRAIN_VOICES, 5, 3, "new sentences of the voices that the base was trained on"),
    CorpusSet("sat", SAT_VOICES, 48, 4, "voices for LoRA pre-training; the base never heard them"),
    CorpusSet("unheard", TARGET_VOICES, 120, 5, "the target speakers; nothing that was trained before heard them"),
)


def sentences_of(seed: int) -> dict[str, dict[str, list[str]]]:
    """Set → speaker → sentences, lower case. No sentence occurs twice in the corpus."""
    source = unique_sentences(seed)
    return {
        corpus_set.name: {
            speaker: list(itertools.islice(source, corpus_set.n_utterances)) for speaker in corpus_set.voices
        }
        for corpus_set in SETS
    }


def flac(samples: bytes) -> bytes:
    """16-bit samples of the library → a FLAC file at `OUTPUT_RATE`, 16 bits."""
    common = np.gcd(SAMPLE_RATE, OUTPUT_RATE)
    signal = np.frombuffer(samples, dtype="<i2").astype(np.float64) * HEADROOM
    signal = resample_poly(signal, OUTPUT_RATE // common, SAMPLE_RATE // common)
    file = io.BytesIO()
    soundfile.write(
        file, np.clip(np.rint(signal), -32768, 32767).astype(np.int16), OUTPUT_RATE, "PCM_16", format="FLAC"
    )
    return file.getvalue()


def write_set(corpus_set: CorpusSet, sentences: dict[str, list[str]], folder: Path) -> None:
    """Write `SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac` and `SPEAKER-CHAPTER.trans.txt` under `folder`."""
    for speaker, voice in Bar(corpus_set.voices.items(), desc=f"{corpus_set.name:8}", unit="voice", file=sys.stderr):
        chapter = folder / speaker / str(corpus_set.chapter)
        chapter.mkdir(parents=True)
        lines = []
        for number, samples in enumerate(synthesize(voice, sentences[speaker])):
            utterance = f"{speaker}-{corpus_set.chapter}-{number:04d}"
            (chapter / f"{utterance}.flac").write_bytes(flac(samples))
            lines.append(f"{utterance} {sentences[speaker][number].upper()}\n")
        (chapter / f"{speaker}-{corpus_set.chapter}.trans.txt").write_text("".join(lines), encoding="utf-8")


def speakers_table() -> str:
    """Who is who, in the form of LibriSpeech's SPEAKERS.TXT."""
    lines = [
        "; Synthetic voices of espeak-ng.",
        ";ID  | SETS              | ACCENT         | VARIANT  | PITCH | RATE | RANGE",
    ]
    for voices in (TRAIN_VOICES, SAT_VOICES, TARGET_VOICES):
        sets = " ".join(corpus_set.name for corpus_set in SETS if corpus_set.voices is voices)
        for speaker, voice in voices.items():
            lines.append(
                f"{speaker:4} | {sets:17} | {voice.accent:14} | {voice.variant:8} | {voice.pitch:5} | {voice.rate:4} "
                f"| {voice.pitch_range}"
            )
    return "\n".join(lines) + "\n"


def report_overlap(sentences: dict[str, dict[str, list[str]]], limit: int | None) -> None:
    """Print how many sentences each set shares with the training set."""
    spoken = {name: {text for texts in by.values() for text in texts[:limit]} for name, by in sentences.items()}
    for name, texts in spoken.items():
        n_words = len({word for text in texts for word in text.split()})
        shared = "" if name == "train" else f", {len(texts & spoken['train'])} of them in train"
        print(f"{name}: {len(texts)} sentences of {n_words} different words{shared}")


def make_corpus(out: Path, seed: int, limit: int | None) -> None:
    """Write every set that is not there yet.

    Args:
        limit: at most so many utterances a voice and set; None for all.

    Raises:
        PqmError: if `out` holds a corpus made with other options.
    """
    recipe = {"seed": seed, "limit": limit, "sets": [asdict(corpus_set) for corpus_set in SETS]}
    if (out / "recipe.json").exists() and read_json(out / "recipe.json") != recipe:
        raise PqmError(f"{out / 'recipe.json'} tells of other options or voices: delete {out} or name another folder")
    write_json(out / "recipe.json", recipe)
    sentences = sentences_of(seed)
    for corpus_set in SETS:
        if (out / corpus_set.name).is_dir():
            print(f"{corpus_set.name}: already there")
            continue
        with whole_folder(out / corpus_set.name) as folder:
            write_set(
                corpus_set, {speaker: texts[:limit] for speaker, texts in sentences[corpus_set.name].items()}, folder
            )
    write_text(out / "SPEAKERS.TXT", speakers_table())
    report_overlap(sentences, limit)


def main() -> None:
    """Parse the command line."""
    sets = "\n".join(
        f"  {corpus_set.name:8} {len(corpus_set.voices):2} voices: {corpus_set.about}" for corpus_set in SETS
    )
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nsets:\n{sets}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("out", type=Path, help="the folder to write the corpus to")
    parser.add_argument("--seed", type=int, default=0, help="which sentences are said (default 0)")
    parser.add_argument("--limit", type=int, help="at most so many utterances a voice and set, for a quick look")
    arguments, _ = parser.parse_known_args()  # the recipe's own options come along
    if arguments.limit is not None and arguments.limit < 1:
        parser.error("--limit must be 1 or more")
    try:
        make_corpus(arguments.out, arguments.seed, arguments.limit)
    except PqmError as error:
        sys.exit(f"make_corpus.py: {error}")


if __name__ == "__main__":
    main()
