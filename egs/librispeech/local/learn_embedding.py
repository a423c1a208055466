#!/usr/bin/env python3
"""Learn the token embedding that a partial Whisper tiny.en lacks, and write a Hugging Face folder.

What comes out is not Whisper tiny.en: it is tiny.en's genuine encoder, an adapted decoder and an embedding that was
learned from about an hour of speech. It writes lower case without punctuation, and knows neither timestamps nor other
tasks. It reached 31.8 % WER (greedy, normalised) on 307 utterances of four readers that were never trained on; with the
decoder's matrices shuffled, the same procedure reached 100.4 %.

--partial holds the tensors of tiny.en but `decoder.token_embedding.weight`. That matrix is both the decoder's input and
its output layer, so it cannot be learned from whole utterances at once: wrong input rows make wrong hidden states, and
the rows then memorise the text without listening. Short pieces come first:

1. the encoder is run once over every utterance, and its output kept in --cache;
2. a small CTC model on it is trained and finds the words of the training utterances;
3. the frozen decoder sees slices of 1, 2, 4, then 10 words. One word needs no input rows but those of the two prompt
   tokens, so output rows are learned first, and longer slices then use them as inputs. Only the embedding is learned;
4. the whole decoder is let free at a small rate, on slices and whole utterances, with dropout, hidden frames and
   averaged weights.

The vocabulary is the part of GPT-2's that the training text uses often enough, and letters.
"""

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pqm_plugin.errors import PqmError

if TYPE_CHECKING:  # --help should not wait for torch
    from embedding_learner import Learner
    from encoded_speech import Utterance
    from word_vocabulary import Vocabulary

MAX_FRAMES_TRAINED = 1250  # 25 s; longer utterances are left out


def words_up_to(most: int) -> int:
    """Draw a length between half of `most` and `most`."""
    return random.randint(max(1, most // 2), most)


def words_or_all() -> int | None:
    """Draw a length: mostly the whole utterance."""
    return None if random.random() < 0.6 else random.randint(2, 14)


def some_silence() -> int:
    """Draw the frames after an utterance: 1 to 8 s."""
    return random.choice((50, 50, 50, 100, 200, 400))


def learn(arguments: argparse.Namespace) -> None:
    """Do all of it; random numbers are drawn in one order, so that a seed gives the same weights.

    Raises:
        PqmError: if the corpus or the weights are not what they should be, or nothing is left to train on.
    """
    import numpy as np
    import torch
    from embedding_learner import Learner
    from encoded_speech import encode, read_utterances
    from partial_whisper import check_out, read_tensors, write_model
    from word_alignment import align_words
    from word_vocabulary import Vocabulary

    check_out(arguments.out)
    torch.manual_seed(arguments.seed)
    random.seed(arguments.seed)
    np.random.seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    tensors = read_tensors(arguments.partial, arguments.shuffle_decoder)
    utterances = list(read_utterances(arguments.corpus, arguments.sets, set(arguments.exclude)))
    encode(utterances, tensors, arguments.cache)
    utterances = [utterance for utterance in utterances if utterance.n_frames < MAX_FRAMES_TRAINED]
    if not utterances:
        raise PqmError(f"{arguments.corpus} has no utterances to train on: name other --sets or exclude fewer readers")
    vocabulary = Vocabulary(Counter(word for utterance in utterances for word in utterance.words), arguments.min_count)
    for utterance in utterances:
        utterance.ids = [vocabulary.ids(word) for word in utterance.words]
    print(
        f"{len(utterances)} utterances of {len({utterance.reader for utterance in utterances})} readers, "
        f"{len(vocabulary)} rows, {len(vocabulary.unlearned)} of them suppressed",
        flush=True,
    )
    align_words(utterances)
    learner = Learner(tensors, vocabulary)
    train_in_two_regimes(learner, utterances, vocabulary, arguments.steps)
    write_model(arguments.out, learner, tensors, vocabulary)
    if arguments.score:
        report_held_out(arguments)
    print(f"total {time.process_time():.0f} CPU s")


def train_in_two_regimes(
    learner: "Learner", utterances: Sequence["Utterance"], vocabulary: "Vocabulary", scale: float
) -> None:
    """Train the embedding alone on slices, then all of the decoder; `scale` multiplies every stage's steps."""
    from embedding_training import Regime, Stage, collate, cut_piece, train

    def steps(usual: int) -> int:
        return max(1, round(usual * scale))

    learner.check(collate([cut_piece(utterances[0], 4, vocabulary)], False))
    slices = ((1, 220, 8), (2, 130, 4), (4, 160, 2), (10, 200, 1))
    stages = [Stage(partial(words_up_to, most), steps(usual), repeats) for most, usual, repeats in slices]
    train(learner, utterances, vocabulary, Regime(stages, rate=2e-3, decoder_rate=0.0))
    regime = Regime(
        [Stage(partial(words_up_to, 6), steps(140), 1), Stage(words_or_all, steps(760), 1)],
        rate=1e-3,
        decoder_rate=6e-5,
        dropout=0.1,
        word_drop=0.1,
        smoothing=0.05,
        hides_frames=True,
        average=0.98,
        silence=some_silence,
    )
    train(learner, utterances, vocabulary, regime)


def report_held_out(arguments: argparse.Namespace) -> None:
    """Print the WER over some utterances of the excluded readers, and a few of them."""
    from encoded_speech import read_utterances
    from partial_whisper import score

    others = [
        utterance
        for utterance in read_utterances(arguments.corpus, arguments.sets, ())
        if utterance.reader in arguments.exclude
    ]
    if not others:
        raise PqmError(f"{arguments.corpus} has no utterances of the readers in --exclude: nothing to score")
    wer, lines = score(arguments.out, random.Random(1).sample(others, min(arguments.score, len(others))))
    for said, heard in lines[:8]:
        print(f"REF {said}\nHYP {heard}")
    print(f"held-out readers {' '.join(arguments.exclude)}: {len(lines)} utterances, greedy WER {wer:.1f} %")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--partial", required=True, type=Path, help="a folder with model_f16.safetensors, named as in openai-whisper")
    add("--corpus", required=True, type=Path, help="a LibriSpeech folder")
    add("--sets", nargs="+", default=["train-clean-5", "dev-clean"], help="sets of it to train on")
    add("--exclude", nargs="*", default=[], help="readers that are never trained on")
    add("--out", required=True, type=Path, help="the folder to write; an older model there is replaced")
    add("--cache", type=Path, default=Path("encoded"), help="encoder outputs, 1.1 MB an utterance; reused")
    add("--seed", type=int, default=0, help="of everything that is drawn (default 0)")
    add("--min-count", type=int, default=5, help="how often the text must use a token (default 5)")
    add("--steps", type=float, default=1.0, help="scales the length of every stage of the training")
    add("--shuffle-decoder", type=int, metavar="SEED", help="control: shuffle the decoder's matrices with this seed")
    add("--score", type=int, default=0, help="afterwards decode so many utterances of the excluded readers")
    add("--threads", type=int, default=1, help="of torch (default 1)")
    return parser.parse_args()


def main() -> None:
    """Parse the command line."""
    arguments = parse()
    arguments.out = arguments.out.resolve()
    try:
        learn(arguments)
    except PqmError as error:
        sys.exit(f"learn_embedding.py: {error}")


if __name__ == "__main__":
    main()
