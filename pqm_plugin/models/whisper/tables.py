"""Whisper's special tokens: the tables of generation_config.json, completed where entries lack, and the prompt."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqm_plugin.errors import PqmError
from pqm_plugin.models.language import AUTO, ENGLISH, known_language
from pqm_plugin.models.whisper import library as whisper_library

if TYPE_CHECKING:
    from torch import Tensor


END, START, PREVIOUS, NO_TIMESTAMPS = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|startofprev|>",
    "<|notimestamps|>",
)
TASKS = ("transcribe", "translate")
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"),
    *("normalizer.json", "added_tokens.json", "special_tokens_map.json"),
)
CONFIG = "config.json"
GENERATION = "generation_config.json"
_WANTED = ("eos_token_id", "decoder_start_token_id", "no_timestamps_token_id", "is_multilingual")
_MADE = (*_WANTED, "pad_token_id", "max_length", "lang_to_id", "task_to_id")
# What the settings of generation were before they had a file of their own.
_FORMERLY = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
    *("suppress_tokens", "begin_suppress_tokens", "max_length"),
)
_FORMER_LENGTH = 20
_SIZES = {"max_target_positions": 448, "vocab_size": 51865}
_CAPITALISED = re.compile("Ġ[A-Z][a-z]{2,}")  # Ġ: the blank before it
_ENGLISH, _MULTILINGUAL = 51864, (51865, 51866)  # the published vocabularies
_LANGUAGE = re.compile(r"<\|[a-z]{2,3}\|>")
_SPECIAL = re.compile(r"<\|.*\|>|")


def copy_tokenizer(folder: Path, out: Path) -> None:
    """Copy the tokeniser's files."""
    for name in TOKENIZER:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)


def token_ids(folder: Path) -> dict[str, int]:
    """Ids of all tokens by their spelling, special ones with them.

    Raises:
        PqmError: if the tokeniser is missing or damaged.
    """
    vocabulary, added, _ = _parts(folder)
    return vocabulary | added


def check_tokenizer(folder: Path) -> None:
    """See that the tokeniser's merges make all of its tokens.

    Raises:
        PqmError: if merges are missing, which decoding does not show but all that is learnt suffers from.
    """
    vocabulary, added, merges = _parts(folder)
    made = {left + right for left, right in merges}
    lacking = [
        token
        for token in vocabulary
        if len(token) > 1 and token not in made and token not in added and not _SPECIAL.fullmatch(token)
    ]
    if lacking:
        raise PqmError(
            f"{folder}: the tokeniser has {len(merges)} merges and cannot make {len(lacking)} of its tokens, such as "
            f"{lacking[0]!r}, so that a model would learn wrong ones: take tokenizer.json from where the model was "
            "published first, for OpenAI's models openai/whisper-... on the Hugging Face hub"
        )


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of generation of a Hugging Face folder as transformers reads them, whole.

    What the folder lacks is made of its tokeniser and sizes: old folders have no tables of languages and tasks, or no
    `generation_config.json`. A longest length that is missing, or the 20 that transformers once wrote into every
    model, is what the decoder has positions for.

    Raises:
        PqmError: if a file is damaged or missing that is needed, or a token's number is none.
    """
    config, path = _object(folder / CONFIG), folder / GENERATION
    stored = _object(path) if path.is_file() else {name: config[name] for name in _FORMERLY if name in config}
    n_positions, vocab_size = (config.get(name, size) for name, size in _SIZES.items())
    values = {name: value for name, value in stored.items() if value is not None or name not in _MADE}
    _check_kinds(values, path)
    ends = values.get("eos_token_id")
    if isinstance(ends, list) and len(ends) < 2:
        values |= {"eos_token_id": ends[0]} if ends else {}
        if not ends:
            del values["eos_token_id"]
    pad = values.get("pad_token_id")
    if isinstance(pad, list):
        values |= {"pad_token_id": pad[0]} if pad else {}
        if not pad:
            del values["pad_token_id"]
    if values.get("max_length") in (None, _FORMER_LENGTH) or not 0 < values["max_length"] <= n_positions:
        values["max_length"] = n_positions
    if "decoder_start_token_id" not in values and isinstance(config.get("decoder_start_token_id"), int):
        values["decoder_start_token_id"] = config["decoder_start_token_id"]
    if _lacks(values):
        values = _completed(values, made_of(token_ids(folder), vocab_size, n_positions))
    check(values, path, vocab_size)
    ends = values["eos_token_id"]
    values.setdefault("pad_token_id", ends[0] if isinstance(ends, list) else ends)
    return values


def _check_kinds(values: Mapping[str, Any], path: Path) -> None:
    for name, kind, what in (
        ("lang_to_id", dict, "table"),
        ("task_to_id", dict, "table"),
        ("max_length", int, "number"),
    ):
        if not isinstance(values.get(name, kind()), kind):
            raise PqmError(
                f"{path}: {name} is {values[name]!r}, no {what}: copy the file from where the model was published"
            )
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        numbers = values.get(name) or []
        if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
            raise PqmError(
                f"{path}: {name} is {str(numbers)[:80]!r}, no list of tokens' numbers: copy the file from where the "
                "model was published"
            )


def _lacks(values: Mapping[str, Any]) -> bool:
    """Whether something is missing that the prompt or the search needs."""
    if any(name not in values for name in _WANTED):
        return True
    tables = (values.get("lang_to_id"), (values.get("task_to_id") or {}).get(TASKS[0]))
    return bool(values["is_multilingual"]) and not all(tables)


def _completed(values: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    """The stored values over those that were made; of the tasks, all of both."""
    found = {**made, **values}
    if not values.get("is_multilingual", bool(values.get("lang_to_id")) or made["is_multilingual"]):
        unused = {"lang_to_id", "task_to_id"} - values.keys()
        return {name: value for name, value in found.items() if name not in unused} | {"is_multilingual": False}
    found["is_multilingual"] = True
    found["lang_to_id"] = values.get("lang_to_id") or made.get("lang_to_id", {})
    found["task_to_id"] = made.get("task_to_id", {}) | (values.get("task_to_id") or {})
    return found


def writes_case(folder: Path) -> bool:
    """Whether the vocabulary has words with a capital letter: its model was trained on texts as people write them.

    Raises:
        PqmError: if the tokeniser's files cannot be read.
    """
    return any(_CAPITALISED.fullmatch(token) for token in token_ids(folder))


def check(values: Mapping[str, Any], path: Path, vocab_size: int) -> None:
    """See that every token of the prompt is one of the vocabulary.

    Raises:
        PqmError: if not, naming `path`, where the values are from.
    """
    ends = values.get("eos_token_id")
    wanted = {f"eos_token_id {place}": end for place, end in enumerate(ends if isinstance(ends, list) else [ends])}
    wanted["decoder_start_token_id"] = values.get("decoder_start_token_id")
    if "no_timestamps_token_id" in values:
        wanted["no_timestamps_token_id"] = values["no_timestamps_token_id"]
    if values["is_multilingual"]:
        tasks = values["task_to_id"]
        wanted |= {f"lang_to_id {name}": number for name, number in values["lang_to_id"].items()}
        wanted |= {f"task_to_id {name}": tasks.get(name) for name in (TASKS[0], *tasks)}
    for name, number in wanted.items():
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < vocab_size:
            raise PqmError(
                f"{path}: {name} is {number!r}, no token of a vocabulary of {vocab_size}, and the tokeniser does not "
                "tell: copy both from where the model was published"
            )


def made_of(tokens: Mapping[str, int], vocab_size: int, max_length: int) -> dict[str, Any]:
    """The settings of generation that a model's tokens and positions decide, under transformers' names."""
    named = {
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), END),
        "decoder_start_token_id": START,
        "no_timestamps_token_id": NO_TIMESTAMPS,
        "prev_sot_token_id": PREVIOUS,
    }
    values: dict[str, Any] = {name: tokens[token] for name, token in named.items() if token in tokens}
    values |= {"max_length": max_length, "max_initial_timestamp_index": 50, "return_timestamps": False}
    values["is_multilingual"] = is_multilingual(tokens, vocab_size)
    if values["is_multilingual"]:
        values["lang_to_id"] = _languages(tokens)
        values["task_to_id"] = {name: tokens[f"<|{name}|>"] for name in TASKS if f"<|{name}|>" in tokens}
    return values


def is_multilingual(tokens: Mapping[str, int], vocab_size: int) -> bool:
    """By the size of the vocabulary, for the tokenisers of English models name languages, too."""
    if vocab_size == _ENGLISH or vocab_size in _MULTILINGUAL:
        return vocab_size != _ENGLISH
    return "<|transcribe|>" in tokens and any(_LANGUAGE.fullmatch(name) for name in tokens)


def _languages(tokens: Mapping[str, int]) -> dict[str, int]:
    """By their ids."""
    return {
        name: number for number, name in sorted((tokens[name], name) for name in tokens if _LANGUAGE.fullmatch(name))
    }


def _parts(folder: Path) -> tuple[dict[str, int], dict[str, int], list[tuple[str, str]]]:
    """Vocabulary, tokens that were added to it, and merges."""
    path = folder / TOKENIZER[0]
    try:
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8-sig"))
            added = {token["content"]: int(token["id"]) for token in content["added_tokens"]}
            return dict(content["model"]["vocab"]), added, [_pair(merge) for merge in content["model"]["merges"]]
        path = folder / "vocab.json"
        vocabulary = dict(json.loads(path.read_text(encoding="utf-8-sig")))
        path = folder / "added_tokens.json"
        added = dict(json.loads(path.read_text(encoding="utf-8-sig"))) if path.is_file() else {}
        path = folder / "merges.txt"
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        return vocabulary, added, [_pair(line) for line in lines if line and not line.startswith("#version")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PqmError(f"{path} cannot be read ({error}): take it from where the model was published") from error


def _pair(merge: Any) -> tuple[str, str]:
    """Of the two forms of merges, one has them with a blank between."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        what = f"{path} is missing or not whole ({error})"
        raise PqmError(f"{what}: copy it from where the model was published") from error
    if not isinstance(found, dict):
        raise PqmError(f"{path} is missing or not whole: copy it from where the model was published")
    return found


_TASK = "transcribe"


@dataclass(frozen=True)
class Prompt:
    """Token ids before the text and of its end; `generate_options` lead transformers to the same prompt."""

    tokens: tuple[int, ...]
    end: int
    generation_config: "whisper_library.GenerationConfig"
    generate_options: dict[str, Any] = field(default_factory=dict)
    other_ends: frozenset[int] = frozenset()
    languages: Mapping[str, int] = field(default_factory=dict)
    """Token of each language by its code; empty for a model of English alone."""

    def spoken_in(self, language: str) -> "Prompt":
        """The same with the token of another language, a code that the model knows.

        Raises:
            PqmError: if it does not know it.
        """
        code = known_language(language, self.languages)
        if not self.languages:
            return self
        tokens = (self.tokens[0], self.languages[code], *self.tokens[2:])
        return replace(self, tokens=tokens, generate_options=self.generate_options | {"language": f"<|{code}|>"})

    def likeliest_language(self, logits: "Tensor") -> str:
        """The code of the language that several pieces of speech are likeliest in together.

        Args:
            logits: of the token after the start, float32 (B, V).
        """
        if not self.languages:
            return ENGLISH
        codes = list(self.languages)
        among = logits[:, [self.languages[code] for code in codes]].log_softmax(-1).mean(0)
        return codes[int(among.argmax())]

    def text_of(self, ids: Sequence[int]) -> list[int]:
        """What stands between the prompt, if `ids` begin with it, and the end."""
        found = list(ids)
        if tuple(found[: len(self.tokens)]) == self.tokens:
            found = found[len(self.tokens) :]
        ends = {self.end} | self.other_ends
        return found[: next((place for place, token in enumerate(found) if token in ends), None)]


def read_prompt(folder: Path, language: str) -> Prompt:
    """The prompt of the model in `folder`; a model of English alone has no language and task in it.

    With the language `auto` it is in English, or in the first that the model knows, until another is chosen.

    Raises:
        PqmError: if the model does not know `language`, or its generation_config.json is not whole.
    """
    values = read_settings(folder)
    start = [values["decoder_start_token_id"]]
    silent = [values[name] for name in ("no_timestamps_token_id",) if name in values]
    ends = values["eos_token_id"] if isinstance(values["eos_token_id"], list) else [values["eos_token_id"]]
    end, others = ends[0], frozenset(ends[1:])
    config = whisper_library.GenerationConfig.from_dict(dict(values))
    if not values["is_multilingual"]:
        known_language(language, {})
        return Prompt((*start, *silent), end, config, {"return_timestamps": False}, others)
    languages = _language_tokens(values)
    code = known_language(language, languages)
    if code == AUTO:
        code = ENGLISH if ENGLISH in languages else next(iter(languages))
    tokens = (*start, languages[code], values["task_to_id"][_TASK], *silent)
    options = {"return_timestamps": False, "language": f"<|{code}|>", "task": _TASK}
    return Prompt(tokens, end, config, options, others, languages)


def spoken_language(folder: Path, language: str) -> str:
    """The code of a language of the model in `folder`, or `auto` where it is to choose among several.

    Raises:
        PqmError: if the model does not know it.
    """
    values = read_settings(folder)
    return known_language(language, _language_tokens(values) if values["is_multilingual"] else {})


def languages(folder: Path) -> tuple[str, ...]:
    """Codes of the languages that the model in `folder` can be told, sorted; a model of English alone has one."""
    values = read_settings(folder)
    return tuple(sorted(_language_tokens(values))) if values["is_multilingual"] else (ENGLISH,)


def _language_tokens(values: Mapping[str, Any]) -> dict[str, int]:
    return {name.strip("<|>"): number for name, number in values["lang_to_id"].items()}
