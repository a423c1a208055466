"""Names, order and looks of the systems that are compared."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_BASES = {
    "espnet": "the base as stock ESPnet decodes it",
    "stock": "the base as its own toolkit decodes it",
    "full": "the base in full precision",
    "int8": "the base in dynamic int8",
    "nf4-rtn": "the base in 4 bits, each weight rounded to its nearest level",
    "nf4": "the base in 4 bits",
}
_ADAPTERS = {
    "sat": "the speaker-independent LoRA",
    "speaker": "the speaker's own LoRA",
    "other": "another target speaker's LoRA (control)",
    "speaker-unsup": "the speaker's own LoRA, learned without transcripts",
    "copy": "every weight fine-tuned for the speaker, from the speaker-independent LoRA on: a whole model for each",
    "espnet-lora": "ESPnet's own LoRA for the speaker, from the base itself on, all else frozen",
}
_ORDER = (
    *("espnet", "stock", "full", "full+sat", "full+speaker", "full+copy", "full+espnet-lora"),
    *("int8", "nf4-rtn", "nf4", "nf4+sat", "nf4+speaker", "nf4+other"),
)


BASE, OWN, SAT = "nf4", "nf4+speaker", "nf4+sat"
OTHERS = "nf4+others"
"""What the mean of `nf4+other`, `nf4+other2`, … is called in comparisons, where there are several."""
_OTHER = re.compile(r"nf4\+other\d*")


@dataclass(frozen=True)
class Look:
    """How a system is drawn: colour, matplotlib marker, and whether the marker is filled."""

    colour: str
    marker: str
    filled: bool = True


# Colours of Okabe and Ito (2008), told apart with any colour vision; the markers tell them apart in grey.
_LOOKS = {
    "espnet": Look("#7F7F7F", "o", filled=False),
    "stock": Look("#7F7F7F", "o", filled=False),
    "full": Look("#222222", "o"),
    "full+copy": Look("#222222", "P"),
    "full+espnet-lora": Look("#7F7F7F", "X", filled=False),
    "int8": Look("#CC79A7", "v"),
    "nf4-rtn": Look("#D55E00", "s", filled=False),
    "nf4": Look("#D55E00", "s"),
    "nf4+sat": Look("#E69F00", "^"),
    "nf4+speaker": Look("#0072B2", "D"),
    "nf4+other": Look("#009E73", "X"),
}
_FURTHER_LOOKS = (
    Look("#56B4E9", "P"),
    Look("#222222", "p", filled=False),
    Look("#0072B2", "h", filled=False),
    Look("#D55E00", "*", filled=False),
)


def ordered(systems: Iterable[str]) -> list[str]:
    """Sort systems as every table shows them: the fixed ones first, then the others by name."""
    return sorted(systems, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))


def others_of(systems: Iterable[str]) -> tuple[str, ...]:
    """Those of the systems that are `nf4` with another speaker's adapter."""
    return tuple(system for system in systems if _OTHER.fullmatch(system))


def describe(system: str) -> str:
    """Say what a system is; a key is a base, or a base, `+` and an adapter."""
    base, _, adapter = system.partition("+")
    said = _BASES.get(base, base)
    if not adapter:
        return said
    kind = adapter.rstrip("0123456789")
    return f"{said}, with {_ADAPTERS.get(kind, adapter)}" + _numbered(kind, adapter[len(kind) :])


def _numbered(kind: str, number: str) -> str:
    """What the number after an adapter means."""
    if not number:
        return ""
    return f", {number} rounds" if kind == "speaker-unsup" else f", {number} places on in the list"


def looks(systems: Iterable[str]) -> dict[str, Look]:
    """Choose how each system is drawn; known systems look alike in every figure."""
    everyone = ordered(systems)
    further = [name for name in everyone if name not in _LOOKS]
    chosen = {name: _FURTHER_LOOKS[place % len(_FURTHER_LOOKS)] for place, name in enumerate(further)}
    return {name: _LOOKS.get(name) or chosen[name] for name in everyone}
