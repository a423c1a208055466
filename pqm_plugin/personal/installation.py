"""What `pqm doctor` looks at: the machine, the libraries against the bounds of the package, extras and the cache."""

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from pqm_plugin.processes import free_memory_bytes, n_cores

PACKAGE = "pqm_plugin"
EXTRAS = {
    "train": "packing models and training adapters, with torch",
    "serve": "the page in the browser and the API",
    "wyoming": "voice assistants",
    "listen": "dictation from the microphone",
    "whisper": ".pt files of openai-whisper",
    "export": "folders for faster-whisper",
    "lhotse": "manifests of lhotse",
    "report": "figures of stage 8",
    "demo": "the demo's synthetic voices",
    "slurm": "jobs on a cluster",
    "study": "controls and simulated rooms of the studies",
    "docs": "this documentation as a site",
    "test": "tests and linters",
}
"""What each extra of setup.py is for."""
_IMPORTED = ("torch", "torchaudio", "bitsandbytes", "soundfile", "av", "onnxruntime")
"""Libraries with compiled parts: that one is installed does not say that it can be loaded."""
_LEAST_FREE_BYTES = 2 * 10**9
_LEAST_DISK_BYTES = 2 * 10**9


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, what is there, and what to do if that is not enough.

    `needed` tells what nothing works without from what some uses lack.
    """

    what: str
    found: str
    remedy: str = ""
    needed: bool = True

    def line(self) -> str:
        """The line as it is printed."""
        mark = "ok" if not self.remedy else "!!" if self.needed else "--"
        return f"{mark} {self.what:<11} {self.found}" + (f" → {self.remedy}" if self.remedy else "")


def examine() -> list[Finding]:
    """Look at everything, in about ten findings; the libraries with compiled parts are imported."""
    requirements = declared()
    return [
        _python(),
        _package(requirements),
        _machine(),
        judged_libraries(requirements, installed_version),
        _loaded(),
        _cuda(),
        judged_extras(requirements, installed_version),
        _decoders(),
        _voices(),
        _cache(),
    ]


def declared() -> list[Requirement]:
    """What the installed package asks for; empty where it is not installed, as in a folder on PYTHONPATH."""
    try:
        return [Requirement(line) for line in importlib.metadata.requires(PACKAGE) or []]
    except importlib.metadata.PackageNotFoundError:
        return []


def installed_version(name: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def judged_libraries(requirements: Iterable[Requirement], version_of: Callable[[str], str | None]) -> Finding:
    """Whether every required library is there in a version within its bounds, those of installed extras too."""
    requirements = list(requirements)
    wanted = [one for one in requirements if _applies(one, "")]
    lacking = [one for one in wanted if version_of(one.name) is None]
    everyone = [*wanted, *(one for one in requirements if one not in wanted)]
    outside = sorted({_outside(one, version_of) for one in everyone} - {""})
    said = ", ".join(f"{name} {version_of(name)}" for name in ("torch", "transformers", "espnet") if version_of(name))
    problems = [*(f"{one.name} is missing" for one in lacking), *outside]
    if problems:
        names = [f"'{one.name}{one.specifier}'" for one in everyone if one in lacking or _outside(one, version_of)]
        return Finding("libraries", "; ".join(problems), f"pip install {' '.join(dict.fromkeys(names))}")
    return Finding("libraries", f"{said}: all {len(wanted)} within their bounds")


def _outside(wanted: Requirement, version_of: Callable[[str], str | None]) -> str:
    version = version_of(wanted.name)
    if version is None or wanted.specifier.contains(version, prereleases=True):
        return ""
    return f"{wanted.name} {version} is not {wanted.specifier}"


def _applies(wanted: Requirement, extra: str) -> bool:
    return wanted.marker is None or wanted.marker.evaluate({"extra": extra})


def judged_extras(requirements: Iterable[Requirement], version_of: Callable[[str], str | None]) -> Finding:
    """Which extras are there, and what those that are not would be for."""
    requirements = list(requirements)
    lacking: list[str] = []
    there: list[str] = []
    for extra in EXTRAS:
        own = [one for one in requirements if _applies(one, extra) and not _applies(one, "")]
        (there if own and all(version_of(one.name) for one in own) else lacking).append(extra)
    found = ", ".join(there) or "none"
    if not lacking:
        return Finding("extras", found)
    uses = ", ".join(f"{extra} ({EXTRAS[extra]})" for extra in lacking)
    remedy = f"if you need one: pip install '{PACKAGE}[{lacking[0]}]'"
    return Finding("extras", f"{found}; not installed: {uses}", remedy, needed=False)


def _python() -> Finding:
    version = platform.python_version()
    said = f"{version} on {platform.system()} {platform.machine()}, {sys.executable}"
    fits = (3, 12) <= sys.version_info[:2] <= (3, 13)
    return Finding("Python", said, "" if fits else "use Python 3.12 or 3.13, which ESPnet needs")


def _package(requirements: list[Requirement]) -> Finding:
    place = Path(__file__).resolve().parents[1]
    program = shutil.which("pqm")
    version = installed_version(PACKAGE)
    if not requirements:
        return Finding("pqm", f"runs from {place}, not installed", f"pip install {place.parent}", needed=False)
    remedy = "" if program else f"put {Path(sys.executable).parent} on the PATH, or source bin/activate there"
    return Finding("pqm", f"{version} from {place}; the command: {program or 'not on the PATH'}", remedy, needed=False)


def _machine() -> Finding:
    free = free_memory_bytes()
    said = f"{n_cores()} cores, {free / 1e9:.1f} GB of memory free" if free else f"{n_cores()} cores"
    tight = 0 < free < _LEAST_FREE_BYTES
    return Finding("machine", said, "close other programs: packing a model takes 2 GB" if tight else "", needed=False)


def _loaded() -> Finding:
    """Import what has compiled parts."""
    broken = []
    for name in _IMPORTED:
        try:
            importlib.import_module(name)
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            broken.append(f"{name}: {' '.join(str(error).split())[:120]}")
    if not broken:
        return Finding("import", f"{', '.join(_IMPORTED)} load")
    remedy = "install torch and torchaudio of one build and one index, then the others again"
    return Finding("import", "cannot be loaded: " + "; ".join(broken), remedy)


def _cuda() -> Finding:
    try:
        import torch

        if not torch.cuda.is_available():
            return Finding("CUDA", "none is seen: everything computes on the processor, which is enough")
        names = ", ".join(torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count()))
        return Finding("CUDA", f"{torch.version.cuda}: {names}")
    except (ImportError, OSError, RuntimeError) as error:
        return Finding("CUDA", f"not known: {' '.join(str(error).split())[:120]}", "mend torch first", needed=False)


def _decoders() -> Finding:
    """Libraries that open recordings; those of wheels carry them along."""
    found = []
    try:
        sound = importlib.import_module("soundfile")
        found.append(f"libsndfile {sound.__libsndfile_version__}")
        av = importlib.import_module("av")
        found.append(f"FFmpeg's libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}")
    except (ImportError, OSError) as error:
        said = ", ".join(found) or "none"
        return Finding("audio", f"{said}: {error}", "pip install --force-reinstall soundfile av")
    return Finding("audio", f"{', '.join(found)}: WAV, FLAC, MP3, Ogg, m4a, webm open")


def _voices() -> Finding:
    version = installed_version("espeakng-loader")
    if version is None:
        return Finding("espeak-ng", "not there: the demo needs it", f"pip install '{PACKAGE}[demo]'", needed=False)
    try:
        library = Path(importlib.import_module("espeakng_loader").get_library_path())
    except (ImportError, OSError) as error:
        return Finding("espeak-ng", str(error), "install espeakng-loader again", needed=False)
    remedy = "" if library.is_file() else "install espeakng-loader again"
    return Finding("espeak-ng", f"in espeakng-loader {version}, for the demo", remedy, needed=False)


def _cache() -> Finding:
    """Where downloaded models are kept, whether it can be written, and what the disk has left."""
    from huggingface_hub.constants import HF_HUB_CACHE

    place = Path(HF_HUB_CACHE)
    nearest = next(folder for folder in (place, *place.parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        return Finding("cache", f"{place} cannot be written", "set HF_HOME to a folder of yours", needed=False)
    free = shutil.disk_usage(nearest).free
    remedy = "make room, or set HF_HOME to a larger disk" if free < _LEAST_DISK_BYTES else ""
    return Finding("cache", f"{place} can be written, {free / 1e9:.0f} GB free", remedy, needed=False)
