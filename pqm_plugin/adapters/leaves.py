"""Adapters of several speakers that learn in one batch, each from the rows that are computed with it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pqm_plugin.adapters import library
from pqm_plugin.adapters.factors import cut
from pqm_plugin.adapters.rows import Forward, by_row, set_forward
from pqm_plugin.errors import PqmError

DOWN, UP = "all.lora_A.weight", "all.lora_B.weight"
"""Names of a speaker's parameters: all down-projections, float32 (n,), and all up-projections, float32 (m,)."""
Leaves = Mapping[str, nn.Parameter]


@dataclass(frozen=True)
class _Place:
    """A layer whose adapter learns: peft's module around it, the adapter's factors there, what scales their product."""

    around: Any
    down: nn.Parameter
    up: nn.Parameter
    scale: float
    dropout: nn.Module

    @property
    def layer(self) -> nn.Module:
        found: nn.Module = self.around.get_base_layer()
        return found


class LearningRows:
    """What learns of the adapter around a network, as often as there are speakers.

    A speaker's factors are two blocks of memory, so that a step of Adam is as few operations as it can be. The adapter
    in the network is what they start from and what one of them is put into at its end; meanwhile only those of its
    layers are used that do not learn, and its dropout.
    """

    def __init__(self, model: nn.Module) -> None:
        """Find what learns in `model`.

        Raises:
            PqmError: if that is more than the factors of LoRA, or nothing.
        """
        self._places = {name: place for name, module in model.named_modules() for place in _learning(module)}
        factors = {id(factor) for place in self._places.values() for factor in (place.down, place.up)}
        others = [name for name, value in model.named_parameters() if value.requires_grad and id(value) not in factors]
        if others or not self._places:
            what = others[0] if others else "nothing"
            raise PqmError(f"{what} learns, which speakers cannot do in one batch: use --speakers_per_batch 1")

    def leaves(self) -> dict[str, nn.Parameter]:
        """A speaker's own parameters, with the values that the adapter in the network has now."""
        blocks = {DOWN: [place.down for place in self._places.values()], UP: [p.up for p in self._places.values()]}
        return {
            name: nn.Parameter(torch.cat([factor.detach().flatten() for factor in factors]))
            for name, factors in blocks.items()
        }

    @torch.no_grad()
    def put(self, leaves: Leaves) -> None:
        """Give the adapter in the network a speaker's values."""
        places = self._places.values()
        for name, factors in ((DOWN, [place.down for place in places]), (UP, [place.up for place in places])):
            for factor, values in zip(factors, cut(leaves[name], [factor.shape for factor in factors]), strict=True):
                factor.copy_(values)

    @contextmanager
    def rows(self, speakers: Sequence[Leaves], sizes: Sequence[int]) -> Iterator[None]:
        """Within it the first `sizes[0]` rows of a batch are computed with the first speaker's adapter, and so on.

        Raises:
            PqmError: within it, if a layer does not see all rows at once.
        """
        try:
            for (name, place), (down, up) in zip(self._places.items(), self._by_row(speakers, sizes), strict=True):
                forward = by_row(name, place.layer, down, up * place.scale, place.dropout)
                set_forward(place.around, _of_all_rows(name, forward, sum(sizes)))
            yield
        finally:
            for place in self._places.values():
                set_forward(place.around, None)

    def _by_row(self, speakers: Sequence[Leaves], sizes: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Both factors of each place by row, (rows, rank, in, …) and (rows, out, rank, …)."""
        downs, ups = (
            # Not gathered by an index: on a GPU the sums of its gradients would be in an order by chance.
            torch.cat([leaves[name].expand(size, -1) for leaves, size in zip(speakers, sizes, strict=True)])
            for name in (DOWN, UP)
        )
        places = self._places.values()
        return zip(
            cut(downs, [place.down.shape for place in places]),
            cut(ups, [place.up.shape for place in places]),
            strict=True,
        )


def _learning(module: Any) -> Iterator[_Place]:
    for adapter in module.active_adapters if isinstance(module, library.LoraLayer) else ():
        # Of adapters on embeddings there are others, which a row has not.
        if adapter in module.lora_A and module.lora_A[adapter].weight.requires_grad:
            down, up = module.lora_A[adapter].weight, module.lora_B[adapter].weight
            yield _Place(module, down, up, float(module.scaling[adapter]), module.lora_dropout[adapter])


def _of_all_rows(name: str, forward: Forward, n_rows: int) -> Forward:
    def checked(x: Tensor) -> Tensor:
        if len(x) != n_rows:
            raise PqmError(
                f"{name} hears {len(x)} of {n_rows} rows at once, so that speakers cannot share a batch: "
                "leave it out of lora.targets, or use --speakers_per_batch 1"
            )
        return forward(x)

    return checked
