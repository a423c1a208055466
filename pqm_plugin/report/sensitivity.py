"""How the table of what each kind of layer costs was measured."""

from collections.abc import Mapping, Sequence
from typing import Any

_NOTE = (
    "Loss in nats per dev utterance, of the whole model; WER by the family's fastest decoding, for a CTC/attention "
    "model the best CTC path, in which the decoder's own layers have no part: judge those by the loss.\n"
)
_SAID = ("commit", "command", "hardware", "date")


def sensitivity_parts(records: Mapping[str, Mapping[str, Any]], tables: Sequence[str]) -> list[str]:
    """The part of the page, around `tables`; a record may be older than its `meta`.

    Args:
        records: by base what the stage of that name wrote.
    """
    measured = {base: _measured(record) for base, record in records.items()}
    said = "".join(f"* {base}: {how}\n" for base, how in measured.items() if how)
    return ["## What each kind of layer costs in 4 bits\n", *tables, _NOTE, said]


def _measured(record: Mapping[str, Any]) -> str:
    quantize, meta = record.get("request", {}).get("quantize", {}), record.get("meta", {})
    parts = [f"blocks of {quantize['block_size']}, each weight rounded to its nearest level"] if quantize else []
    parts += [f"{key} {f'`{meta[key]}`' if key in _SAID[:2] else meta[key]}" for key in _SAID if key in meta]
    return "; ".join(parts)
