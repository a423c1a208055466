"""What a Whisper decoder is given before the text: start, language, task, no timestamps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pqm_plugin.models.language import AUTO, ENGLISH, known_language
from pqm_plugin.models.whisper import library as whisper_library
from pqm_plugin.models.whisper import tables as whisper_tables

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

    def likeliest_language(self, logits: Tensor) -> str:
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
    values = whisper_tables.read_settings(folder)
    start = [values["decoder_start_token_id"]]
    silent = [values[name] for name in ("no_timestamps_token_id",) if name in values]
    ends = values["eos_token_id"] if isinstance(values["eos_token_id"], list) else [values["eos_token_id"]]
    end, others = ends[0], frozenset(ends[1:])
    config = whisper_library.GenerationConfig.from_dict(dict(values))
    if not values["is_multilingual"]:
        known_language(language, {})
        return Prompt((*start, *silent), end, config, {"return_timestamps": False}, others)
    languages = _languages(values)
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
    values = whisper_tables.read_settings(folder)
    return known_language(language, _languages(values) if values["is_multilingual"] else {})


def languages(folder: Path) -> tuple[str, ...]:
    """Codes of the languages that the model in `folder` can be told, sorted; a model of English alone has one."""
    values = whisper_tables.read_settings(folder)
    return tuple(sorted(_languages(values))) if values["is_multilingual"] else (ENGLISH,)


def _languages(values: Mapping[str, Any]) -> dict[str, int]:
    return {name.strip("<|>"): number for name, number in values["lang_to_id"].items()}
