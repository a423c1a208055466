"""Commands for a whole model: quantize, info, check, pack, unpack, push and pull."""

import argparse
import sys
from pathlib import Path

from pqm_plugin.commands.options import add_model


def add_quantize(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `quantize`."""
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


def run_quantize(parsed: argparse.Namespace) -> int:
    """Make a 4-bit model of an ESPnet or Whisper one."""
    from pqm_plugin.personal.making import quantize

    meta = quantize(parsed.source, parsed.out, parsed.licence, parsed.keep, parsed.calibrate, parsed.language)
    print(
        f"{parsed.out}: {meta['family']}, {meta['parameters'] / 1e6:.2f} M parameters in "
        f"{meta['size_bytes'] / 1e6:.2f} MB, {meta['ratio']:.2f} times smaller than "
        f"{meta['base_size_bytes'] / 1e6:.2f} MB"
    )
    return 0


def add_info(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `info`."""
    add_model(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run_info(parsed: argparse.Namespace) -> int:
    """Say what a model is: sizes, bits, hashes, licence, measured error rates."""
    from pqm_plugin.files import json_text
    from pqm_plugin.personal.facts import facts, lines
    from pqm_plugin.personal.folder import ModelFolder

    found = facts(ModelFolder.of(parsed.model))
    print(json_text(found, 2, sys.stdout.encoding) if parsed.json else "\n".join(lines(found)))
    return 0


def add_check(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `check`."""
    parser.add_argument("folder", type=Path, metavar="MODEL", help="folder of a model, or a pack")


def run_check(parsed: argparse.Namespace) -> int:
    """Check every file of a model or of a pack, and name every problem."""
    from pqm_plugin.personal.facts import problems

    found = problems(parsed.folder)
    for problem in found:
        print(problem)
    print(f"{parsed.folder}: {len(found)} problems")
    return 1 if found else 0


def add_pack(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `pack`."""
    add_model(parser)
    parser.add_argument("out", type=Path, metavar="PACK", help="file to write, such as my_model.pqm")
    add_contents(parser)


def add_contents(parser: argparse.ArgumentParser) -> None:
    """What goes along with the base."""
    parser.add_argument(
        "--speakers",
        nargs="*",
        default=None,
        metavar="NAME",
        help="whose adapters go along; default: all; none: no name",
    )
    parser.add_argument("--licence", default="", help="licence of the base, where the model does not say it")


def run_pack(parsed: argparse.Namespace) -> int:
    """Put a model and its adapters into one file to hand on."""
    from pqm_plugin.personal.packing import pack

    manifest = pack(parsed.model, parsed.out, parsed.speakers, parsed.licence)
    print(f"{parsed.out}: {len(manifest.files)} files, {parsed.out.stat().st_size / 1e6:.2f} MB")
    return 0


def add_unpack(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `unpack`."""
    parser.add_argument("pack", type=Path, metavar="PACK", help="file that `pqm pack` wrote")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder of the model")


def run_unpack(parsed: argparse.Namespace) -> int:
    """Take a model out of a pack, if it is whole."""
    from pqm_plugin.personal.facts import facts, lines
    from pqm_plugin.personal.unpacking import unpack

    print("\n".join(lines(facts(unpack(parsed.pack, parsed.out)))))
    return 0


def add_push(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `push`."""
    add_model(parser)
    parser.add_argument("repository", metavar="OWNER/NAME", help="repository; it is made if it is not there")
    add_contents(parser)
    parser.add_argument("--public", action="store_true", help="a new repository is seen by all, not by its owner alone")


def run_push(parsed: argparse.Namespace) -> int:
    """Put a model on the Hugging Face hub."""
    from pqm_plugin.personal.hub import push

    print(push(parsed.model, parsed.repository, parsed.speakers, parsed.licence, public=parsed.public))
    return 0


def add_pull(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `pull`."""
    parser.add_argument("repository", metavar="OWNER/NAME", help="repository; @ and a branch, tag or commit may follow")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder of the model")


def run_pull(parsed: argparse.Namespace) -> int:
    """Fetch a model from the Hugging Face hub."""
    from pqm_plugin.personal.facts import facts, lines
    from pqm_plugin.personal.hub import pull

    print("\n".join(lines(facts(pull(parsed.repository, parsed.out)))))
    return 0


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """Declare the options: there are none."""


def run_doctor(parsed: argparse.Namespace) -> int:
    """Look at Python, machine, libraries, extras and cache, and say what to do.

    Prints a line for each finding and one for what comes next; 1 if something that is needed is not there.
    """
    try:
        from pqm_plugin.personal.installation import examine
    except ImportError as error:
        print(f"!! libraries   {error} → pip install pqm_plugin's dependencies: make env, or pip install .")
        return 1
    findings = examine()
    for finding in findings:
        print(finding.line())
    broken = [finding.what for finding in findings if finding.needed and finding.remedy]
    sound = "All that is needed is there. Next: pqm quantize openai/whisper-base.en my_model"
    print(f"Mend first what is marked !!: {', '.join(broken)}" if broken else sound)
    return 1 if broken else 0
