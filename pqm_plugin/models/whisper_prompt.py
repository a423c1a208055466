"""What a Whisper decoder is given before the text: start, language, task, no timestamps."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pqm_plugin.errors import PqmError
from pqm_plugin.models import whisper_library, whisper_tables

_TASK = "transcribe"


@dataclass(frozen=True)
class Prompt:
    """Token ids before the text and of its end; `generate_options` lead transformers to the same prompt."""

    tokens: tuple[int, ...]
    end: int
    generation_config: "whisper_library.GenerationConfig"
    generate_options: dict[str, Any] = field(default_factory=dict)
    other_ends: frozenset[int] = frozenset()

    def text_of(self, ids: Sequence[int]) -> list[int]:
        """What stands between the prompt, if `ids` begin with it, and the end."""
        found = list(ids)
        if tuple(found[: len(self.tokens)]) == self.tokens:
            found = found[len(self.tokens) :]
        ends = {self.end} | self.other_ends
        return found[: next((place for place, token in enumerate(found) if token in ends), None)]


def read_prompt(folder: Path, language: str) -> Prompt:
    """The prompt of the model in `folder`; a model of English alone has no language and task in it.

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
        return Prompt((*start, *silent), end, config, {"return_timestamps": False}, others)
    languages = values["lang_to_id"]
    if f"<|{language}|>" not in languages:
        known = " ".join(sorted(name.strip("<|>") for name in languages))
        raise PqmError(f"decode.language {language!r}: this model knows {known}")
    tokens = (*start, languages[f"<|{language}|>"], values["task_to_id"][_TASK], *silent)
    return Prompt(tokens, end, config, {"return_timestamps": False, "language": language, "task": _TASK}, others)
