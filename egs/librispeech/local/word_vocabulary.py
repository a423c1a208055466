"""A small vocabulary for a Whisper model, taken from GPT-2's."""

import base64
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import WhisperTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from pqm_plugin.errors import PqmError
from pqm_plugin.files import write_json, write_text

START, NO_TIMESTAMPS, END = "<|startoftranscript|>", "<|notimestamps|>", "<|endoftext|>"
_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
_INITIALS = b"abcdefghijklmnopqrstuvwxyzI"
_MAX_ROUNDS = 6


class Vocabulary:
    """A part of GPT-2's tokens that is closed under its merges: text first, then the special tokens, as in Whisper.

    Attributes:
        special: a special token's id.
        unlearned: ids of text tokens that `words` never needs, so that nothing is learned about them.
    """

    def __init__(self, words: Mapping[str, int], min_count: int) -> None:
        """Keep single bytes, and the tokens that occur at least `min_count` times in `words` (word → count).

        Raises:
            PqmError: if openai-whisper, which brings GPT-2's merges, is not installed.
        """
        self._ranks = _gpt2_ranks()
        kept = self._frequent(words, min_count)
        self._tokens = sorted(kept, key=kept.__getitem__)
        self._encoding = _encoding(kept)
        self._id_of_rank = {kept[token]: number for number, token in enumerate(self._tokens)}
        names = (END, START, NO_TIMESTAMPS)
        self.special = {name: number for number, name in enumerate(names, start=len(self._tokens))}
        counts = _counts(kept, words)
        self.unlearned = [number for number, token in enumerate(self._tokens) if not counts[token]]

    def __len__(self) -> int:
        return len(self._tokens) + len(self.special)

    def ids(self, word: str) -> list[int]:
        """The tokens of a word and the space before it."""
        return [self._id_of_rank[rank] for rank in self._encoding.encode(_spelled(word))]

    def write(self, folder: Path) -> None:
        """Write the files of a `WhisperTokenizer`."""
        symbols = bytes_to_unicode()

        def text(token: bytes) -> str:
            return "".join(symbols[byte] for byte in token)

        merges = [map(text, self._parents(token)) for token in self._tokens if len(token) > 1]
        table = {text(token): number for number, token in enumerate(self._tokens)} | self.special
        write_json(folder / "vocab.json", table)
        write_text(folder / "merges.txt", "#version: 0.2\n" + "".join(f"{' '.join(pair)}\n" for pair in merges))
        WhisperTokenizer(
            vocab=str(folder / "vocab.json"),
            merges=str(folder / "merges.txt"),
            unk_token=END,
            bos_token=END,
            eos_token=END,
            pad_token=END,
            additional_special_tokens=[START, NO_TIMESTAMPS],
            add_prefix_space=True,
        ).save_pretrained(folder)

    def _frequent(self, words: Mapping[str, int], min_count: int) -> dict[bytes, int]:
        """What is too rare falls into smaller pieces, which changes the counts: count again until nothing falls."""
        alphabet = {token for token in self._ranks if len(token) == 1} | {
            b" " + bytes([letter]) for letter in _INITIALS
        }
        kept = dict(self._ranks)
        for _ in range(_MAX_ROUNDS):
            keep = set(alphabet)
            for token, count in _counts(kept, words).items():
                if count >= min_count:
                    self._add_with_parents(token, keep)
            if len(keep) == len(kept):
                break
            kept = {token: self._ranks[token] for token in keep}
        return kept

    def _add_with_parents(self, token: bytes, keep: set[bytes]) -> None:
        if token not in keep:
            keep.add(token)
            for part in self._parents(token):
                self._add_with_parents(part, keep)

    def _parents(self, token: bytes) -> list[bytes]:
        """The two tokens that GPT-2 merges into this one; a single byte is its own."""
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            pairs = [self._ranks.get(left + right, 1 << 60) for left, right in zip(parts, parts[1:], strict=False)]
            place = pairs.index(min(pairs))
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        return parts


def _gpt2_ranks() -> dict[bytes, int]:
    try:
        import whisper
    except ImportError as error:
        raise PqmError("it needs openai-whisper's vocabulary: run `pip install 'pqm_plugin[whisper]'`") from error
    lines = (Path(whisper.__file__).parent / "assets" / "gpt2.tiktoken").read_text(encoding="ascii").splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}


def _spelled(word: str) -> str:
    return " " + re.sub(r"\bi\b", "I", word)


def _encoding(ranks: Mapping[bytes, int]) -> Any:
    import tiktoken

    return tiktoken.Encoding("part", pat_str=_PATTERN, mergeable_ranks=dict(ranks), special_tokens={})


def _counts(ranks: Mapping[bytes, int], words: Mapping[str, int]) -> Counter[bytes]:
    encoding, counts = _encoding(ranks), Counter[bytes]()
    token_of_rank = {rank: token for token, rank in ranks.items()}
    for word, count in words.items():
        for rank in encoding.encode(_spelled(word)):
            counts[token_of_rank[rank]] += count
    return counts
