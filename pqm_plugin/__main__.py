"""The command line: `python -m pqm_plugin STAGE [options]`."""

import argparse
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pqm_plugin.errors import PqmError
from pqm_plugin.imports import extra_for
from pqm_plugin.processes import share_cores, start_log, tolerant_output
from pqm_plugin.settings import from_text

try:
    from pqm_plugin.stages import STAGES, run_stage
    from pqm_plugin.stages.recipe import BACKENDS, Recipe, options
except ModuleNotFoundError as error:
    if not (remedy := extra_for(error)):
        raise
    sys.exit(f"pqm: a recipe needs {error.name}, which is not installed: {remedy}")

_FROM_ONE = ("nj", "inference_nj", "n_threads", "speakers_per_job", "speakers_per_batch")
_EPILOG = """stages:
  1 data      the corpus as distributed -> Kaldi folders and the speaker partition
  2 base      train, fetch or copy the full-precision model
  3 quantize  pack it in 4 bits
  4 pretrain  one LoRA on many speakers (SAT)
  5 adapt     one LoRA for each target speaker
  6 decode    the test utterances, by every system
  7 score     WER, CER, intervals: results.json
  8 report    RESULTS.md and figures
ESPnet's asr.sh numbers its stages otherwise: there stage 5 is the token list, 11 trains, 12 decodes, 13 scores."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a stage; 0 if it ended well, 1 for what the user can correct (in one line), 2 for a wrong command line."""
    start_log()
    tolerant_output()
    parsed = _parser().parse_args(arguments)
    share_cores()
    start = time.monotonic()
    try:
        if parsed.stage == "validate":
            return _validate(parsed.folder)
        recipe = _recipe(parsed)
        run_stage(parsed.stage, recipe, alone=True)
    except PqmError as error:
        print(f"pqm {parsed.stage}: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if not (remedy := extra_for(error)):
            raise
        print(f"pqm {parsed.stage}: this needs {error.name}, which is not installed: {remedy}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"pqm {parsed.stage}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    logging.info("stage %s: done. [elapsed=%ds]", parsed.stage, time.monotonic() - start)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pqm", description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    shared = argparse.ArgumentParser(add_help=False)
    for option in options():
        _add(shared, option.name, option.type, option.default, option.metadata["help"])
    helps = {name: f"stage {number}" for number, name in enumerate(STAGES, start=1)}
    helps["sensitivity"] = "which kinds of layer pay for 4 bits, for the report"
    helps["study"] = "the same recipe with other settings, seeds and minutes, for the report"
    for name, text in helps.items():
        commands.add_parser(
            name,
            parents=[shared],
            help=text,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
    validate = commands.add_parser("validate", help="check a Kaldi data folder and name every problem in it")
    validate.add_argument("folder", type=Path)
    return parser


def _add(parser: argparse.ArgumentParser, name: str, kind: Any, default: Any, text: str) -> None:
    """An option with the type of its field; `--stop-stage` and `--stop_stage` are the same, as in ESPnet."""
    names = list(dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")))
    if name == "labels":
        parser.add_argument(*names, action="append", default=None, metavar="TEXT", help=text + "; may be repeated")
    else:
        metavar = "'A B …'" if "tuple" in str(kind) else name.upper()
        parser.add_argument(*names, type=from_text(kind), default=default, metavar=metavar, help=text)


def _recipe(parsed: argparse.Namespace) -> Recipe:
    values = {option.name: getattr(parsed, option.name) for option in options()}
    values["labels"] = tuple(values["labels"] or ())
    values["command"] = values["command"] or shlex.join(["python", "-m", "pqm_plugin", *sys.argv[1:]])
    if values["cmd_backend"] not in BACKENDS:
        raise PqmError(f"--cmd_backend {values['cmd_backend']}: use {' or '.join(BACKENDS)}")
    if values["split"] not in ("test", "dev"):
        raise PqmError(f"--split {values['split']}: use test, or dev")
    if values["inference_config"] and not values["tag"]:
        raise PqmError(
            "--inference_config is a second decoding setting: name it with --tag, or it would overwrite the first"
        )
    if values["words"] and not values["tag"]:
        raise PqmError("--words is a second decoding setting: name it with --tag, or it would overwrite the first")
    if min(values[name] for name in _FROM_ONE) < 1 or values["ngpu"] < 0:
        raise PqmError(f"--{', --'.join(_FROM_ONE)} start at 1, --ngpu at 0")
    return Recipe(**values)


def _validate(folder: Path) -> int:
    from pqm_plugin.corpus.validate import validate

    problems = validate(folder)
    for problem in problems:
        print(problem)
    print(f"{folder}: {len(problems)} problems")
    return 1 if any(problem.severity == "error" for problem in problems) else 0


if __name__ == "__main__":
    sys.exit(main())
