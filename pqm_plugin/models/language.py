"""Languages as users write them: a name, a code or a locale, in any case."""

import re
from collections.abc import Mapping

from pqm_plugin.errors import PqmError
from pqm_plugin.models.whisper import library as whisper_library

AUTO = "auto"
"""Stands for the language that a model finds in the speech itself."""
ENGLISH = "en"
_CODE = re.compile(r"([a-z]{2,3})([-_][a-z0-9]+)*")
_ALIASES = {"eng": ENGLISH}


def language_code(language: str) -> str:
    """The code of a language, of two or three lower-case letters, or `auto`.

    Args:
        language: a code (`de`, `DE`, `<|de|>`), a locale (`pt_BR`), or an English name that Whisper's tokeniser knows
            (`German`).

    Raises:
        PqmError: if it is none of these. Whether a model knows the language is not asked.
    """
    plain = language.strip().lower().removeprefix("<|").removesuffix("|>")
    if plain == AUTO:
        return AUTO
    if found := _CODE.fullmatch(plain):
        code = str(found[1])
        return _ALIASES.get(code, code)
    # transformers is imported for names alone.
    names = whisper_library.TO_LANGUAGE_CODE
    if plain not in names:
        raise PqmError(f"language {language!r} is not known: use a code such as de, a name such as german, or {AUTO}")
    return str(names[plain])


def known_language(language: str, languages: Mapping[str, int]) -> str:
    """The code of a language of a model that knows these, or `auto` where it is to choose among several.

    Raises:
        PqmError: if the model does not know it.
    """
    code = language_code(language)
    if not languages:
        if code not in (ENGLISH, AUTO):
            raise PqmError(f"language {language!r}: this Whisper model is English-only: use a multilingual one")
        return ENGLISH
    if code not in (*languages, AUTO):
        raise PqmError(f"language {language!r}: this model knows {' '.join(sorted(languages))}, and {AUTO}")
    return code
