"""Words of tokens: of a Whisper tokeniser, from its vocabulary alone, and of an ESPnet model's token list."""

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pqm_plugin.biasing import Spelling, byte_symbols
from pqm_plugin.errors import PqmError
from pqm_plugin.runtime.weights import NotHereError

_TIME = re.compile(r"<\|\d+\.\d+\|>")
_NO_SPEECH = ("<|nospeech|>", "<|nocaptions|>")
_ENGLISH_SPACES = (" .", " ?", " !", " ,", " n't", " 'm", " 's", " 've", " 're")


class Words:
    """A tokeniser that writes what tokens say."""

    def __init__(self, folder: Path) -> None:
        """Read its files.

        Raises:
            PqmError: if one is missing or damaged.
        """
        self._folder = folder
        try:
            whole = folder / "tokenizer.json"
            if whole.is_file():
                content = json.loads(whole.read_text(encoding="utf-8-sig"))
                vocabulary, added = content["model"]["vocab"], content["added_tokens"]
                special = {int(token["id"]) for token in added if token.get("special")}
                named = {str(token["content"]): int(token["id"]) for token in added}
            else:
                vocabulary, named = _object(folder / "vocab.json"), _object(folder / "added_tokens.json", {})
                special = set(named.values())
            settings = _object(folder / "tokenizer_config.json", {})
            special |= {int(number) for number, token in _listed(settings) if token.get("special")}
            named |= {str(token["content"]): int(number) for number, token in _listed(settings)}
            self._spelled = {int(number): str(symbols) for symbols, number in vocabulary.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise PqmError(
                f"{folder}: the tokeniser cannot be read ({error}): take it from where the model was published"
            ) from error
        self._named, self._special = {number: name for name, number in named.items()}, special
        self._cleaned = settings.get("clean_up_tokenization_spaces") is True
        known = vocabulary | named
        self.no_speech: int | None = next((known[name] for name in _NO_SPEECH if name in known), None)
        """The token by which the model says that nobody speaks; None in a vocabulary without it."""

    def text(self, tokens: Sequence[int]) -> str:
        """The words of tokens, without special ones, separated by single blanks."""
        parts: list[str | bytes] = []
        symbols = byte_symbols()
        for token in tokens:
            if token in self._special:
                continue
            if token in self._named:
                parts.append(self._named[token])
            else:
                parts.append(bytes(symbols[symbol] for symbol in self._spelled.get(token, "") if symbol in symbols))
        found, run = "", b""
        for part in [*parts, ""]:
            if isinstance(part, bytes):
                run += part
            else:
                found, run = found + run.decode("utf-8", errors="replace") + part, b""
        found = _TIME.sub("", found)
        if self._cleaned:
            for spaced in _ENGLISH_SPACES:
                found = found.replace(spaced, spaced[1:])
            found = found.replace(" ' ", "'")
        return " ".join(found.split())

    def spelling(self, n_tokens: int) -> Spelling:
        """What each of a model's tokens writes; those that are special, or beyond the vocabulary, write nothing."""
        silent = self._special | self._named.keys()
        return Spelling.of_byte_level({t: s for t, s in self._spelled.items() if t not in silent}, n_tokens)

    def ids(self, text: str) -> list[int]:
        """Tokens of a text as Whisper writes it, with a blank before it."""
        return list(self._encoder().encode(f" {text.strip()}", add_special_tokens=False).ids)

    @functools.cached_property
    def _cached(self) -> Any:
        import tokenizers

        whole = self._folder / "tokenizer.json"
        if whole.is_file():
            return tokenizers.Tokenizer.from_file(str(whole))
        names = [str(self._folder / name) for name in ("vocab.json", "merges.txt")]
        found = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(*names))
        found.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
        return found

    def _encoder(self) -> Any:
        return self._cached


def _object(path: Path, missing: Any = None) -> Any:
    if missing is not None and not path.is_file():
        return missing
    found = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} is no JSON object")
    return found


def _listed(settings: dict[str, Any]) -> list[tuple[str, Any]]:
    return list((settings.get("added_tokens_decoder") or {}).items())


_SPACE = "<space>"


def espnet_words(config: Mapping[str, Any]) -> Callable[[Sequence[str]], str]:
    """What writes the tokens of a configuration of ESPnet's as words: sentence pieces, characters or whole words.

    Raises:
        PqmError: if its file of sentence pieces is missing or damaged.
        NotHereError: if it has tokens of another kind.
    """
    kind, model = config.get("token_type"), config.get("bpemodel")
    if kind == "char":
        return lambda tokens: "".join(" " if token == _SPACE else token for token in tokens)
    if kind == "word":
        return lambda tokens: " ".join(tokens)
    if kind != "bpe" or not isinstance(model, str):
        raise NotHereError(f"tokens of type {str(kind)[:40]}")
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor()
    try:
        pieces.LoadFromSerializedProto(Path(model).read_bytes())
    except (OSError, RuntimeError) as error:
        raise PqmError(
            f"{model} cannot be read ({' '.join(str(error).split())[:80]}): take it from where the model was published"
        ) from error
    return lambda tokens: str(pieces.DecodePieces(list(tokens)))
