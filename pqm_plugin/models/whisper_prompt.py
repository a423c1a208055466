"""What a Whisper decoder is given before the text: start, language, task, no timestamps."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pqm_plugin.errors import PqmError
from pqm_plugin.models import whisper_library

_TASK = "transcribe"


@dataclass(frozen=True)
class Prompt:
    """Token ids before the text and of its end; `generate_options` lead transformers to the same prompt."""

    tokens: tuple[int, ...]
    end: int
    generation_config: "whisper_library.GenerationConfig"
    generate_options: dict[str, Any] = field(default_factory=dict)

    def text_of(self, ids: Sequence[int]) -> list[int]:
        """What stands between the prompt, if `ids` begin with it, and the end."""
        found = list(ids)
        if tuple(found[: len(self.tokens)]) == self.tokens:
            found = found[len(self.tokens) :]
        return found[: found.index(self.end)] if self.end in found else found


def read_prompt(folder: Path, language: str) -> Prompt:
    """The prompt of the model in `folder`; a model of English alone has no language and task in it.

    Raises:
        PqmError: if the model does not know `language`, or its generation_config.json is not whole.
    """
    path = folder / "generation_config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        start, silent = [values["decoder_start_token_id"]], [values["no_timestamps_token_id"]]
        end = values["eos_token_id"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"{path} is missing or not whole ({error})"
        raise PqmError(f"{what}: copy it from where the model was published") from error
    config = whisper_library.GenerationConfig.from_pretrained(folder)
    if not values.get("is_multilingual", "lang_to_id" in values):
        return Prompt((*start, *silent), end, config, {"return_timestamps": False})
    languages = values.get("lang_to_id", {})
    if f"<|{language}|>" not in languages:
        known = " ".join(sorted(name.strip("<|>") for name in languages))
        raise PqmError(f"decode.language {language!r}: this model knows {known}")
    tokens = (*start, languages[f"<|{language}|>"], values["task_to_id"][_TASK], *silent)
    return Prompt(tokens, end, config, {"return_timestamps": False, "language": language, "task": _TASK})
