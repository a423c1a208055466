"""Invented results whose numbers can be worked out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def results() -> dict[str, Any]:
    """Two speakers of 100 words each; `full` makes 30 errors in 60 MB, `nf4` 36 in 8 MB, adapters take 0.5 MB."""
    return json.loads((Path(__file__).parent / "results.json").read_text(encoding="utf-8"))


def entry(errors: int, size_bytes: int = 100, adapter_bytes: int = 10) -> dict[str, Any]:
    """A system with so many errors of 1,000 words."""
    wer = errors / 1000
    sizes = {"model_bytes": size_bytes, "adapter_bytes": adapter_bytes, "adapter_fraction": 0.01}
    return {"errors": errors, "words": 1000, "wer": wer, "wer_ci95": [wer - 0.01, wer + 0.01], **sizes}


def cell(section: str, name: str, changes: dict[str, Any], systems: dict[str, Any]) -> dict[str, Any]:
    """A cell of a study as it is stored."""
    return {"section": section, "cell": name, "changes": changes, "systems": systems}


@pytest.fixture
def systems() -> dict[str, Any]:
    """One system of each kind."""
    return {
        "full": entry(100, 700, 0),
        "nf4": entry(140, 100, 0),
        "nf4+sat": entry(120),
        "nf4+speaker": entry(90),
        "nf4+other": entry(110),
        "nf4+other2": entry(120),
        "nf4+speaker-unsup": entry(99),
    }


@pytest.fixture
def study() -> dict[str, Any]:
    """A study with a cell of each kind."""
    return {
        "set": "test",
        "cells": [
            cell("seeds", "1", {"seed": 1}, {"nf4+speaker": entry(94)}),
            cell("minutes", "half", {"adapt_minutes": 0.5}, {"nf4+speaker": entry(105)}),
            cell("minutes", "two", {"adapt_minutes": 2}, {"nf4+speaker": entry(96)}),
            cell("bits", "fp4", {"quantize": {"quant_type": "fp4"}}, {"nf4": entry(160)}),
        ],
    }
