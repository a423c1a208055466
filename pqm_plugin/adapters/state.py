"""The state of a training run in one file, written whole, so that the run can be killed at any time."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pqm_plugin.files import whole_file


@dataclass(frozen=True)
class Epoch:
    """One row of the log; losses in nats per utterance, accuracy in [0, 1]."""

    epoch: int
    learning_rate: float
    train_loss: float
    dev_loss: float
    dev_accuracy: float

    def summary(self) -> str:
        """For the progress bar."""
        return f"train {self.train_loss:.2f} dev {self.dev_loss:.2f} acc {self.dev_accuracy:.4f}"


class TrainingState:
    """The log of a run, the best weights so far and the optimiser's state."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, criterion: str
    ) -> None:
        self._parameters = parameters
        self._optimizer = optimizer
        self._criterion = criterion
        self._best: dict[str, Tensor] = {}
        self.best_epoch = 0
        self.log: list[Epoch] = []

    def take_in(self, epoch: Epoch) -> None:
        """Note a finished epoch."""
        self.log.append(epoch)
        if epoch.epoch == 0 or self._score(epoch) > self._score(self.log[self.best_epoch]):
            self.best_epoch = epoch.epoch
            self._best = {name: value.detach().clone() for name, value in self._parameters.items()}

    def stale(self, patience: int) -> bool:
        """Whether none of the last `patience` epochs was better."""
        return 0 < patience <= len(self.log) - 1 - self.best_epoch

    def restore_best(self) -> None:
        """Put the best epoch's weights into the model."""
        with torch.no_grad():
            for name, value in self._parameters.items():
                value.copy_(self._best[name])

    def state(self) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """All that `resume_from` needs: tensors by name, and the rows of the log."""
        tensors = {f"best.{name}": value for name, value in self._best.items()}
        for name, value in self._parameters.items():
            tensors[f"now.{name}"] = value.detach()
            tensors |= {f"{key}.{name}": moment for key, moment in self._optimizer.state.get(value, {}).items()}
        return tensors, [asdict(row) for row in self.log]

    def knows(self, tensors: Collection[str]) -> bool:
        """Whether a state whose tensors have these names is of such a run."""
        return {name for name in tensors if name.startswith("now.")} == {f"now.{name}" for name in self._parameters}

    def resume_from(self, tensors: Mapping[str, Tensor], rows: Sequence[Mapping[str, Any]]) -> None:
        """Take over a `state` of an earlier run."""
        self.log = [Epoch(**row) for row in rows]
        self.best_epoch = max(self.log, key=lambda row: (self._score(row), -row.epoch)).epoch
        self._best = {name: tensors[f"best.{name}"] for name in self._parameters}
        with torch.no_grad():
            for name, value in self._parameters.items():
                value.copy_(tensors[f"now.{name}"])
        self._restore_moments(tensors)

    def _restore_moments(self, tensors: Mapping[str, Tensor]) -> None:
        """Give the optimiser its moments, which it takes to where their parameters are."""
        state = self._optimizer.state_dict()
        names = {id(value): name for name, value in self._parameters.items()}
        learning = [value for group in self._optimizer.param_groups for value in group["params"]]
        for place, value in enumerate(learning):
            name = names[id(value)]
            if f"step.{name}" in tensors:
                state["state"][place] = {key: tensors[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        self._optimizer.load_state_dict(state)

    def _score(self, epoch: Epoch) -> tuple[float, float]:
        by_loss = (-epoch.dev_loss, epoch.dev_accuracy)
        return by_loss if self._criterion == "loss" else by_loss[::-1]


class Checkpoint:
    """The state of one run in a file."""

    def __init__(self, path: Path, run: TrainingState) -> None:
        self._path = path
        self._run = run

    def write(self) -> None:
        """Write everything down."""
        tensors, rows = self._run.state()
        _write(self._path, tensors, {"log": rows})

    def resume(self) -> bool:
        """Read an earlier run's state; False if there is none that can be read, and then nothing has changed."""
        tensors, rows = _read(self._path, "log")
        if rows is None or not self._run.knows(tensors):
            return False
        self._run.resume_from(tensors, rows)
        return True


class SharedCheckpoint:
    """The states of runs that are trained side by side, in one file, so that none is an epoch ahead of the others."""

    def __init__(self, path: Path, runs: Sequence[TrainingState]) -> None:
        self._path = path
        self._runs = runs

    def write(self) -> None:
        """Write everything down."""
        states = [run.state() for run in self._runs]
        tensors = {f"{place}.{name}": value for place, (of, _) in enumerate(states) for name, value in of.items()}
        _write(self._path, tensors, {"logs": [rows for _, rows in states]})

    def resume(self) -> bool:
        """As for one run; the same runs must be there in the same order."""
        tensors, logs = _read(self._path, "logs")
        states = [_of_place(tensors, place) for place in range(len(self._runs))]
        known = all(run.knows(state) for run, state in zip(self._runs, states, strict=True))
        if logs is None or len(logs) != len(states) or not known:
            return False
        for run, state, rows in zip(self._runs, states, logs, strict=True):
            run.resume_from(state, rows)
        return True


def _of_place(tensors: Mapping[str, Tensor], place: int) -> dict[str, Tensor]:
    start = f"{place}."
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def _read(path: Path, key: str) -> tuple[dict[str, Tensor], Any]:
    """The tensors of a file, and what its metadata has under `key`; None if there is no such file that can be read."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[key])
            return {name: file.get_tensor(name) for name in file.keys()}, about
    except (FileNotFoundError, SafetensorError, KeyError, json.JSONDecodeError):
        return {}, None


def _write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    metadata = {name: json.dumps(value) for name, value in about.items()}
    with whole_file(path) as scratch:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, scratch, metadata=metadata)
