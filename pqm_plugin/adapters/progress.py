"""What a training run knows of itself, kept whole in one file so that it can be killed at any instant."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

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


class Progress:
    """The log, the best weights so far and the optimiser's state, on disk after every epoch."""

    def __init__(
        self, path: Path, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, criterion: str
    ) -> None:
        self._path = path
        self._parameters = parameters
        self._optimizer = optimizer
        self._criterion = criterion
        self._best: dict[str, Tensor] = {}
        self.best_epoch = 0
        self.log: list[Epoch] = []

    def add(self, epoch: Epoch) -> None:
        """Take in a finished epoch and write everything down."""
        self.log.append(epoch)
        if epoch.epoch == 0 or self._score(epoch) > self._score(self.log[self.best_epoch]):
            self.best_epoch = epoch.epoch
            self._best = {name: value.detach().clone() for name, value in self._parameters.items()}
        self._write()

    def stale(self, patience: int) -> bool:
        """Whether the last `patience` epochs brought nothing better."""
        return 0 < patience <= len(self.log) - 1 - self.best_epoch

    def restore_best(self) -> None:
        """Put the best epoch's weights into the model."""
        with torch.no_grad():
            for name, value in self._parameters.items():
                value.copy_(self._best[name])

    def resume(self) -> bool:
        """Read an earlier run's state; False if there is none that can be read, and then nothing has changed."""
        try:
            with safe_open(self._path, framework="pt") as file:
                rows = json.loads((file.metadata() or {})["log"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (FileNotFoundError, SafetensorError, KeyError, json.JSONDecodeError):
            return False
        if {name for name in tensors if name.startswith("now.")} != {f"now.{name}" for name in self._parameters}:
            return False
        self.log = [Epoch(**row) for row in rows]
        self.best_epoch = max(self.log, key=lambda row: (self._score(row), -row.epoch)).epoch
        self._best = {name: tensors[f"best.{name}"] for name in self._parameters}
        with torch.no_grad():
            for name, value in self._parameters.items():
                value.copy_(tensors[f"now.{name}"])
        self._restore_moments(tensors)
        return True

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

    def _write(self) -> None:
        tensors = {f"best.{name}": value for name, value in self._best.items()}
        for name, value in self._parameters.items():
            tensors[f"now.{name}"] = value.detach()
            tensors |= {f"{key}.{name}": moment for key, moment in self._optimizer.state.get(value, {}).items()}
        metadata = {"log": json.dumps([asdict(row) for row in self.log])}
        with whole_file(self._path) as scratch:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, scratch, metadata=metadata)
