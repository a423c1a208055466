"""A step of the optimiser, and what comes before the first: the same for one speaker as for several side by side."""

import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pqm_plugin.adapters.options import TrainOptions


def adam(parameters: Mapping[str, nn.Parameter], options: TrainOptions) -> torch.optim.Optimizer:
    """An optimiser of all that learns, the up-projections apart if they learn at another rate."""
    faster = options.lora_plus
    up = [value for name, value in parameters.items() if faster != 1 and ".lora_B." in name]
    rest = [value for name, value in parameters.items() if faster == 1 or ".lora_B." not in name]
    groups: list[dict[str, Any]] = [
        {"params": rest, "faster": 1.0},
        *([{"params": up, "faster": faster}] if up else []),
    ]
    return torch.optim.Adam(groups, lr=options.learning_rate)


def shuffled(n: int, seed: int) -> list[int]:
    """The order of `n` batches in an epoch, which `seed` alone decides."""
    return random.Random(seed).sample(range(n), n)


def begin_step(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate and forget the gradients of the step before."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["faster"]
    optimizer.zero_grad(set_to_none=True)


def end_step(optimizer: torch.optim.Optimizer, clip_norm: float) -> None:
    """Go along the gradients, if need be shortened to `clip_norm`."""
    learning = [value for group in optimizer.param_groups for value in group["params"]]
    nn.utils.clip_grad_norm_(learning, clip_norm)
    optimizer.step()
