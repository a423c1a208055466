"""Write a model with what it learned of a speaker as the folder of another tool."""

import argparse
from pathlib import Path

from pqm_plugin.commands.options import add_model


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model(parser)
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder")
    parser.add_argument(
        "--to",
        required=True,
        choices=("huggingface", "faster-whisper", "espnet", "vllm"),
        help="the tool: a model in float32 with the adapter merged, or for vllm the adapter alone",
    )
    parser.add_argument("--speaker", default="", metavar="NAME", help="whose adapter; default: sat, if there is one")
    parser.add_argument("--plain", action="store_true", help="without any adapter")
    parser.add_argument(
        "--base",
        default="",
        metavar="FLOAT",
        help="float model that MODEL was packed from, to merge into; default: the 4-bit weights, unpacked, which give "
        "the words that MODEL gives",
    )


def run(parsed: argparse.Namespace) -> int:
    """Write the folder and say what is in it."""
    from pqm_plugin.personal.exporting import export

    done = export(parsed.model, parsed.out, parsed.to, parsed.speaker, parsed.base, parsed.plain)
    print(f"{done.folder}: for {parsed.to}; base: {done.base}; adapter: {done.adapter}")
    for note in done.notes:
        print(note)
    return 0
