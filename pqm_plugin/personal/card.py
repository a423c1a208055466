"""The page that a model is handed on with, as the Hugging Face hub shows it."""

from collections.abc import Mapping
from typing import Any

from pqm_plugin.personal.facts import UNKNOWN_LICENCE, rounding, wer_line

_HUB_NAMES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc0-1.0"}
_CAUTION = """An adapter was measured on its own speaker's recordings; of other voices, rooms and microphones these
numbers say nothing."""
_USE = """```
pqm unpack PACK my_model && pqm transcribe my_model recording.flac
```

The adapters are ordinary PEFT folders, the weights safetensors; nothing in here is pickled."""


def card(found: Mapping[str, Any]) -> str:
    """Markdown with what the model is, its sizes, licence, hashes, and error rates with what they were measured on.

    Args:
        found: see `facts.facts`.
    """
    measured = [f"* {wer_line(row)}" for row in found["measured"]] or ["* not measured"]
    lines = [
        *_front_matter(found),
        "# A 4-bit speech recogniser with adapters for its speakers",
        *("", *_identity(found), ""),
        "## Word error rate, as measured",
        *("", *measured, "", _CAUTION, ""),
        "## Adapters",
        *("", *_adapters(found), ""),
        "## Use",
        *("", _USE, ""),
    ]
    return "\n".join(lines)


def _identity(found: Mapping[str, Any]) -> list[str]:
    bits = f"{found['bits_per_parameter']:.2f} bits a parameter" if found["bits_per_parameter"] else "unknown width"
    return [
        f"* family: {found['family']}" + (f", made of {found['source']}" if found["source"] else ""),
        f"* base: {found['parameters']:,} parameters in {found['size_bytes'] / 1e6:.2f} MB, {bits}; "
        f"in float32 {found['base_size_bytes'] / 1e6:.2f} MB",
        f"* rounding: {rounding(found)}",
        f"* licence of the base: {found['licence']}",
        f"* SHA-256 of the packed weights: `{found['sha256']}`",
        f"* SHA-256 of the base: `{found['base_sha256']}`",
    ]


def _adapters(found: Mapping[str, Any]) -> list[str]:
    rows = [_adapter_row(name, row) for name, row in found["adapters"].items()]
    head = ["| adapter | MB | parameters | learned from | SHA-256 |", "| :-- | --: | --: | :-- | :-- |"]
    return head + rows if rows else ["None."]


def _adapter_row(name: str, row: Mapping[str, Any]) -> str:
    size, count = f"{row['size_bytes'] / 1e6:.2f}", f"{row['parameters']:,}"
    return f"| `{name}` | {size} | {count} | {row['learned_from']} | `{row['sha256']}` |"


def _front_matter(found: Mapping[str, Any]) -> list[str]:
    """What the hub sorts models by; its name for a licence where there is one."""
    short = found["licence"].lower().replace(" ", "-")
    licence = short if short in _HUB_NAMES else "unknown" if found["licence"] == UNKNOWN_LICENCE else "other"
    tags = ["automatic-speech-recognition", "pqm", "nf4", "lora"]
    return ["---", f"license: {licence}", "tags:", *(f"- {tag}" for tag in tags), "---", ""]
