"""Personalised quantised speech recognisers: 4-bit NF4 models that know their speaker (PQM, arXiv 2309.09136)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pqm_plugin.personal.model import PersonalModel

__version__ = "0.1.0"


def load(path: Any, **options: Any) -> "PersonalModel":
    """Open a personal model, see `personal.model.PersonalModel`; torch is imported only now."""
    from pqm_plugin.personal.model import PersonalModel

    return PersonalModel(path, **options)


def __getattr__(name: str) -> Any:
    """`Speech2Text`, which stands in for ESPnet's, is imported when it is asked for."""
    if name == "Speech2Text":
        from pqm_plugin.personal.speech2text import Speech2Text

        return Speech2Text
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
