"""Make a 4-bit model of an ESPnet or Whisper one."""

import argparse
from pathlib import Path


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "source",
        metavar="MODEL",
        help="ESPnet experiment folder, packed zip or model-zoo tag; Whisper folder (Hugging Face or "
        "CTranslate2), .pt file or hub name; folder or hub name of a CTC model",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder of the 4-bit model")
    parser.add_argument("--licence", default="", help="licence of MODEL, for the card of a pack")
    parser.add_argument(
        "--keep",
        nargs="*",
        default=None,
        metavar="KIND",
        help="layer kinds to leave in 16 bits (default: depthwise_conv)",
    )
    parser.add_argument(
        "--calibrate",
        nargs="+",
        type=Path,
        default=(),
        metavar="RECORDINGS",
        help="folders of recordings, or files, that weights are rounded by; the model stays as small. Ten minutes of "
        "several voices, no transcripts, any rate; default: each weight to its nearest level",
    )
    parser.add_argument(
        "--language",
        default="",
        metavar="NAME",
        help="of the speech, kept in OUT: for a multilingual Whisper a name or code such as german or de, or auto for "
        "what it finds in each recording; of other models for information; default: English",
    )


def run(parsed: argparse.Namespace) -> int:
    """Fetch, pack, and say what it came to."""
    from pqm_plugin.personal.making import quantize

    meta = quantize(parsed.source, parsed.out, parsed.licence, parsed.keep, parsed.calibrate, parsed.language)
    print(
        f"{parsed.out}: {meta['family']}, {meta['parameters'] / 1e6:.2f} M parameters in "
        f"{meta['size_bytes'] / 1e6:.2f} MB, {meta['ratio']:.2f} times smaller than "
        f"{meta['base_size_bytes'] / 1e6:.2f} MB"
    )
    return 0
