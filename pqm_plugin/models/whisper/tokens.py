"""Byte-level BPE in Whisper's format: the tokeniser of a Whisper-shaped model that is trained here."""

import json
from collections.abc import Sequence

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from pqm_plugin.errors import PqmError
from pqm_plugin.models.whisper import library as whisper_library

END, START, PREVIOUS, NO_SPEECH, NO_TIMESTAMPS = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)
# What transformers' tokeniser and generate() look up in an English-only model; one that is missing would silently be
# taken for END. The order counts: generate() expects NO_SPEECH right before NO_TIMESTAMPS, and takes every token after
# NO_TIMESTAMPS for a time. Languages, tasks and times are left out: an English-only model without times writes none.
SPECIAL_TOKENS = (END, START, PREVIOUS, NO_SPEECH, NO_TIMESTAMPS)


def make_tokenizer(texts: Sequence[str], token_type: str, n_tokens: int) -> "whisper_library.WhisperTokenizer":
    """Learn a tokeniser; the same texts give the same files of `save_pretrained`.

    As in Whisper, ids 0 to 255 are the bytes, merged tokens follow, special tokens end the list, and a word carries
    the space before it: a transcript is encoded with a space in front.

    Args:
        texts: transcripts, in the case and spelling that the model is to write.
        token_type: must be `bpe`.
        n_tokens: how many tokens the texts decide: their single bytes and what is merged from them. The bytes that no
            text has come on top, so that any text can be spelled.

    Raises:
        PqmError: for another token type, or if the texts do not hold `n_tokens` tokens.
    """
    if token_type != "bpe":
        raise PqmError(f"token type {token_type!r}: a Whisper tokeniser is byte-level; give --token_type bpe")
    merges = _learn_merges(texts, n_tokens)
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    for token in SPECIAL_TOKENS:
        vocabulary[token] = len(vocabulary)
    return whisper_library.WhisperTokenizer(
        vocab=vocabulary, merges=merges, pad_token=END, additional_special_tokens=list(SPECIAL_TOKENS)
    )


def encode_transcript(tokenizer: "whisper_library.WhisperTokenizer", text: str) -> list[int]:
    """Ids of a transcript from START and NO_TIMESTAMPS to END, as the decoder reads and writes them."""
    return [int(token) for token in tokenizer(f" {text}").input_ids]


def token_id(tokenizer: "whisper_library.WhisperTokenizer", token: str) -> int:
    """Id of one of `SPECIAL_TOKENS`."""
    return int(tokenizer.vocab[token])


def _learn_merges(texts: Sequence[str], n_tokens: int) -> list[tuple[str, str]]:
    """The pairs to merge, in order."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=n_tokens, show_progress=False)
    learner.train_from_iterator((f" {text}" for text in texts), trainer)
    tokens = learner.get_vocab()
    if len(tokens) != n_tokens:
        bytes_ = sum(len(token) == 1 for token in tokens)
        raise PqmError(
            f"{n_tokens} BPE tokens do not fit {len(texts)} transcripts, which have {bytes_} different bytes: "
            + (f"give --n_tokens {len(tokens)} or less" if len(tokens) < n_tokens else "give a greater --n_tokens")
        )
    return [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]
