"""All benchmarks one after the other, and the page that shows them: what `make bench` runs.

`python benchmarks/run.py` runs decode.py, modes.py, adapt.py, step.py and growth.py, each in a process of its own, and
writes results.json, RESULTS.md and figures/growth.svg beside itself, or in `--out`. About a quarter of an hour on two
cores that do nothing else; where something else runs, it says so. A script that has ended is not run again while code,
commit, options and machine are the same: a run that was cut off goes on. same_words.py, words_by_mode.py, hear.py,
serve.py and speakers.py, which docs/cluster.md quotes, are run by hand. Beside them the page shows what adapt.py found
with other options, on other machines or at earlier commits, `adapt_*.json`.
"""

import argparse
import hashlib
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import DEVICES, meta, others_running
from benchmarks.growth_figure import draw
from benchmarks.page import FIGURE, beside, page
from benchmarks.results import merged, missing
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, write_json, write_text
from pqm_plugin.processes import n_cores
from pqm_plugin.records import answers

HERE = Path(__file__).resolve().parent
SCRIPTS = ("decode", "modes", "adapt", "step", "growth")
IDLE = 0.5
"""Running threads of others above which something else is said to run."""
_UNCOMMITTED = "uncommitted"


def main() -> None:
    """Run what has not been run, merge and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE, help="folder for results.json, RESULTS.md and the figure")
    parser.add_argument("--parts", type=Path, help="folder for what each script writes (default OUT/.parts)")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="where torch computes (default cpu)")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it work, not how fast it is")
    parser.add_argument("--skip", nargs="+", choices=SCRIPTS, default=[], help="scripts to leave out; the page says so")
    parser.add_argument("--page", action="store_true", help="run nothing: write the page from results.json again")
    wanted = parser.parse_args()
    if wanted.quick and wanted.out.resolve() == HERE:
        parser.error("--quick measures nothing that should stand here: name another folder with --out")
    if wanted.device != "cpu" and wanted.out.resolve() == HERE:
        parser.error(f"--device {wanted.device} would overwrite the CPU's page: name another folder with --out")
    if wanted.skip and wanted.out.resolve() == HERE:
        parser.error("--skip leaves out what README quotes from this folder: name another with --out")
    if not wanted.page:
        measure(wanted.out, wanted.parts or wanted.out / ".parts", wanted.device, wanted.quick, wanted.skip)
    show(wanted.out)


def measure(out: Path, parts: Path, device: str, quick: bool, skipped: Sequence[str] = ()) -> None:
    """Write results.json.

    Args:
        skipped: scripts that are left out.

    Raises:
        PqmError: if a script fails, or what others quote is not among the results.
    """
    about = meta(0, n_cores(), device)
    found, took_s = {}, 0.0
    for name in (name for name in SCRIPTS if name not in skipped):
        warn_if_busy(name)
        options = ["--device", device, *(["--quick"] if quick else [])]
        found[name] = part(name, parts / f"{name}.json", options, about["commit"])
        took_s += found[name]["request"]["took_s"]
    results = merged(found, about | {"took_s": round(took_s, 1), "quick": quick, "skipped": list(skipped)})
    if not quick and (lacking := missing(results)):
        raise PqmError(f"the benchmarks ended without {', '.join(lacking)}: see {parts}")
    write_json(out / "results.json", results)


def warn_if_busy(name: str) -> None:
    """Say so if the machine does something else."""
    if (running := others_running()) > IDLE:
        print(f"{name}: {running:.1f} threads of others run here: times count on a machine that does nothing else")


def part(name: str, path: Path, options: Sequence[str], commit: str) -> dict[str, Any]:
    """What a script wrote, now or when it was last run with the same code and options.

    Raises:
        PqmError: if it fails.
    """
    request = {"commit": commit, "options": list(options), "sources": sources(), "machine": platform.node()}
    if path.is_file() and _UNCOMMITTED not in commit:
        known: dict[str, Any] = read_json(path)
        if answers(known.get("request"), request, aside=("took_s",)):
            print(f"{name}: done before, in {known['request']['took_s']:.0f} s", flush=True)
            return known
    print(f"{name}: runs", flush=True)
    start = time.perf_counter()
    scratch = path.with_suffix(".new.json")
    scratch.parent.mkdir(parents=True, exist_ok=True)
    log = path.with_suffix(".log")
    command = [sys.executable, str(HERE / f"{name}.py"), "--out", str(scratch), *options]
    with log.open("w", encoding="utf-8") as lines:
        status = subprocess.run(command, stdout=lines, stderr=subprocess.STDOUT, check=False).returncode
    if status:
        raise PqmError(f"{name}.py ended with status {status}: see {log}")
    found: dict[str, Any] = read_json(scratch)
    found["request"] = request | {"took_s": round(time.perf_counter() - start, 1)}
    write_json(path, found)
    scratch.unlink()
    print(f"{name}: {found['request']['took_s']:.0f} s", flush=True)
    return found


def sources() -> str:
    """A hash of the programs in this folder."""
    found = hashlib.sha256()
    for path in sorted(HERE.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def show(out: Path) -> None:
    """Write the page and its figure from results.json."""
    results = read_json(out / "results.json")
    draw(results, out / FIGURE)
    write_text(out / "RESULTS.md", page(results, beside(results)))


if __name__ == "__main__":
    try:
        main()
    except PqmError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
