"""Keep an adapter that plain PEFT made as a speaker of the model."""

import argparse
from pathlib import Path

from pqm_plugin.commands.options import add_model


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model(parser)
    parser.add_argument("adapter", type=Path, metavar="ADAPTER", help="folder with adapter_config.json, a LoRA of PEFT")
    parser.add_argument("--speaker", required=True, metavar="NAME", help="the speaker's name here: A-Z a-z 0-9 . _ -")
    parser.add_argument(
        "--base",
        default="",
        metavar="MODEL",
        help="the float model that it was trained on, to see that MODEL was packed from it; default: the folder that "
        "the adapter names, if it is here",
    )


def run(parsed: argparse.Namespace) -> int:
    """Check, rewrite and keep it."""
    from pqm_plugin.personal.adopting import adopt

    done = adopt(parsed.model, parsed.adapter, parsed.speaker, parsed.base)
    base = "its base is the model's own" if done.base_checked else "its base was not checked"
    print(f"{parsed.speaker}: {done.parameters} parameters, {base}: {done.folder}")
    return 0
