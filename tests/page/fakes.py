"""A model that hears and learns at once, and counts how often it was asked."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from pqm_plugin.errors import PqmError
from pqm_plugin.personal.enrollment import Enrolled
from pqm_plugin.personal.folder import ModelFolder
from pqm_plugin.personal.transcript import Segment

RATE = 16000


def write_adapter(folder: Path, content: str) -> None:
    """Files that make a folder an adapter's."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_text(content)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "pqm.json").write_text('{"parameters": 7, "request": {"n_clips": 2}}')


def write_speech(path: Path, duration_s: float, n_channels: int = 1, rate: int = RATE, seed: int = 0) -> Path:
    """A file of noise."""
    samples = np.random.default_rng(seed).uniform(-0.1, 0.1, (round(duration_s * rate), n_channels))
    soundfile.write(path, samples.astype(np.float32), rate, subtype="PCM_16")
    return path


class FakeModel:
    """As much of `PersonalModel` as the desk needs; its words name the adapter, and count the hearings."""

    def __init__(self, path: Path) -> None:
        for name, text in (("model.safetensors", "x"), ("meta.json", '{"sha256": "%s"}' % ("0" * 64))):
            (path / name).write_text(text)
        self.folder = ModelFolder(path)
        self.sample_rate = RATE
        self.heard: list[str] = []
        self.learned: list[tuple[str, list[int], Any]] = []
        self.n_steps = 3
        self.max_batch = 1

    def adapter(self, speaker: str | None = None) -> tuple[str, Path | None]:
        return (f"speakers/{speaker}", self.folder.known_speaker(speaker)) if speaker else ("none", None)

    def hear(self, samples: np.ndarray, speaker: str | None = None, *, search: Any):
        name = self.adapter(speaker)[0]
        self.heard.append(name)
        middle = len(samples) / RATE / 2
        yield Segment(0.0, middle, f"words {name.rpartition('/')[2]}", -1.0, 0.9)
        yield Segment(middle, 2 * middle, str(len(self.heard)), -1.0, 0.9)

    def enroll(self, speaker: str, clips: list, texts: list[str] | None, *, watch: Any) -> Enrolled:
        for done in range(self.n_steps + 1):
            watch("learning", done, self.n_steps)
        self.learned.append((speaker, [len(clip) for clip in clips], texts))
        folder = self.folder.speaker(speaker)
        shutil.rmtree(folder, ignore_errors=True)
        write_adapter(folder, f"learned {len(self.learned)}")
        return Enrolled(speaker, folder, len(clips), sum(map(len, clips)) / RATE, 1, True)


def raise_stopped(*_: Any) -> None:
    """A watcher that ends what it watches."""
    raise PqmError("stopped")
