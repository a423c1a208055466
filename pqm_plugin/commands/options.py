"""Options shared by several commands."""

import argparse
from pathlib import Path


def add_model(parser: argparse.ArgumentParser) -> None:
    """The folder of a personal model."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of a packed model, such as exp/<base>_nf4")


def add_language(parser: argparse.ArgumentParser) -> None:
    """Of the speech."""
    parser.add_argument(
        "--language",
        metavar="NAME",
        help="of the speech, for a multilingual Whisper: a name or code such as german or de, or auto for what it "
        "finds in the recordings; default: what is kept in MODEL, or English",
    )


def add_computing(parser: argparse.ArgumentParser) -> None:
    """Where and how to compute."""
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, default=0, help="threads; default: as many as there are cores")


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """What computes."""
    parser.add_argument(
        "--runtime",
        choices=("auto", "onnx", "torch"),
        default="auto",
        help="what computes: ONNX Runtime with products in 8 bits, fast and small on a CPU, or torch; "
        "default: ONNX Runtime where it can",
    )


def add_channel(parser: argparse.ArgumentParser) -> None:
    """Which channel of recordings is used."""
    parser.add_argument(
        "--channel",
        type=int,
        metavar="N",
        help="use only this channel, from 0 as in Kaldi; default: the average of all, and a warning where they "
        "seem to be two people's",
    )


def set_threads(n_threads: int) -> None:
    """Give torch so many threads; 0 leaves the choice to it."""
    import torch

    if n_threads > 0:
        torch.set_num_threads(n_threads)
