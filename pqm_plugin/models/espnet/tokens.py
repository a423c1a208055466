"""Token lists for training: the steps of ESPnet's `asr.sh`, stage 5."""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from pqm_plugin.errors import PqmError
from pqm_plugin.files import whole_file, write_text

BLANK, UNKNOWN, SENTENCE, SPACE = "<blank>", "<unk>", "<sos/eos>", "<space>"
TOKEN_TYPES = ("bpe", "char", "word")
_CONTROL_PIECES = 3  # <unk>, <s> and </s> come first in every SentencePiece model


def make_tokens(texts: Sequence[str], out: Path, token_type: str, n_tokens: int) -> None:
    """Write `tokens.txt`, and for BPE `bpe.model`, into the folder `out`.

    Args:
        texts: transcripts, in the case and spelling that the model is to write.
        token_type: one of `TOKEN_TYPES`.
        n_tokens: BPE: size of the SentencePiece vocabulary; else at most so many of the most frequent, 0 for all.

    Raises:
        PqmError: if the token type is unknown, or the texts are too few for `n_tokens`.
    """
    if token_type not in TOKEN_TYPES:
        raise PqmError(f"token type {token_type!r}: must be one of {', '.join(TOKEN_TYPES)}")
    if token_type == "bpe":
        tokens = _train_bpe(texts, out / "bpe.model", n_tokens)
    elif token_type == "char":
        tokens = _most_frequent((SPACE if c == " " else c for text in texts for c in text), n_tokens)
    else:
        tokens = _most_frequent((word for text in texts for word in text.split()), n_tokens)
    write_text(out / "tokens.txt", "".join(f"{token}\n" for token in [BLANK, UNKNOWN, *tokens, SENTENCE]))


def _train_bpe(texts: Sequence[str], model: Path, n_tokens: int) -> list[str]:
    """Train a SentencePiece unigram model, as `asr.sh` does by default; one thread keeps its sums reproducible."""
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=written,
            vocab_size=n_tokens,
            model_type="unigram",
            character_coverage=1.0,
            input_sentence_size=100_000_000,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise PqmError(f"{n_tokens} BPE tokens do not fit {len(texts)} transcripts: {_reason(error)}") from error
    with whole_file(model) as scratch:
        scratch.write_bytes(written.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    return [pieces.id_to_piece(index) for index in range(_CONTROL_PIECES, pieces.get_piece_size())]


def _reason(error: RuntimeError) -> str:
    """The last sentence of a SentencePiece message, which starts with a source line and an expression."""
    return str(error).strip().splitlines()[-1].split("] ")[-1]


def _most_frequent(symbols: Iterable[str], n_tokens: int) -> list[str]:
    """The commonest first, equals in the order of their code points."""
    counts = Counter(symbols)
    ordered = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))
    return ordered[: n_tokens or None]
