"""Compute the frozen lowest layers once for a batch that is trained on many times."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pqm_plugin.forwards import replaced_forwards
from pqm_plugin.models.interface import Loss, Recognizer
from pqm_plugin.models.networks import training_products


class _EnoughError(Exception):
    """Ends a forward pass whose rest nobody needs."""


@dataclass(frozen=True)
class PreparedLoss:
    """The loss of one batch, to be called again and again while what is above `modules` is trained.

    `outputs` holds what each of `modules` gave: the last one's whole, of the others, which nothing reads any more,
    tensors of no rows.
    """

    loss: Callable[[], Loss]
    modules: Sequence[nn.Module] = ()
    outputs: Sequence[Any] = ()

    @property
    def size_bytes(self) -> int:
        """Memory that is held beside the features."""
        return sum(tensor.numel() * tensor.element_size() for output in self.outputs for tensor in _tensors(output))

    def __call__(self) -> Loss:
        """Compute the loss from the first layer on that can change; bit for bit what `loss` gives without."""
        with _replaced(self.modules, self.outputs):
            return self.loss()


def training_loss(recognizer: Recognizer, features: Sequence[Tensor], tokens: Sequence[Tensor]) -> Loss:
    """The recogniser's loss, computed by the faster products and layers that recognition has.

    Products are, as far as weights are frozen. So an adapter is trained on the very numbers that it is used with, up to
    the order of sums.
    """
    [found] = training_losses(recognizer, features, tokens, [len(tokens)])
    return found


def training_losses(
    recognizer: Recognizer, features: Sequence[Tensor], tokens: Sequence[Tensor], sizes: Sequence[int]
) -> list[Loss]:
    """The same of groups of rows that are computed together, see `Recognizer.losses`."""
    with training_products(), recognizer.optimized_attention():
        return recognizer.losses(features, tokens, sizes)


def losses_by_group(
    recognizer: Recognizer,
) -> Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[int]], list[Loss]]:
    """`training_losses` of a recogniser, to be called where rows have adapters of their own."""
    # Trials of faster layers now: there they could not be made.
    with recognizer.optimized_attention():
        return partial(training_losses, recognizer)


def prepare_loss(recognizer: Recognizer, features: Sequence[Tensor], tokens: Sequence[Tensor]) -> PreparedLoss:
    """The loss of a batch with the fixed layers of the recogniser's `layer_stack` already computed.

    Fixed are the lowest layers without a trained parameter and without dropout at work, as the network is now. The
    batch is computed as a whole, since sums of float32 depend on the shapes that they are computed in. No random number
    is drawn.
    """

    def loss() -> Loss:
        return training_loss(recognizer, features, tokens)

    modules = fixed_layers(recognizer)
    if not modules:
        return PreparedLoss(loss)
    return PreparedLoss(loss, modules, _record(modules, loss))


def fixed_layers(recognizer: Recognizer) -> list[nn.Module]:
    """The lowest modules of `layer_stack` whose output for given features stays what it is."""
    found: list[nn.Module] = []
    for name in recognizer.layer_stack():
        module = recognizer.network.get_submodule(name)
        learns = any(parameter.requires_grad for parameter in module.parameters())
        if learns or any(inner.training for inner in module.modules()):
            break
        found.append(module)
    return found


def _record(modules: Sequence[nn.Module], run: Callable[[], object]) -> list[Any]:
    """Outputs of `modules` in one forward pass, which ends after the last of them."""
    outputs: list[Any] = []

    def keep(module: nn.Module, arguments: Any, output: Any) -> None:
        last = module is modules[-1]
        outputs.append(output if last else _hollow(output))
        if last:
            raise _EnoughError

    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        with torch.no_grad(), torch.random.fork_rng():
            run()
    except _EnoughError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    if len(outputs) != len(modules):
        raise RuntimeError(f"of {len(modules)} layers of the stack {len(outputs)} ran: they are not one after another")
    return outputs


def _hollow(output: Any) -> Any:
    """The same structure with tensors of no rows: what lies between replaced layers computes on them at no cost."""
    if isinstance(output, tuple):
        return tuple(_hollow(part) for part in output)
    return output.new_empty((0, *output.shape[1:])) if isinstance(output, Tensor) else output


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, tuple):
        for part in output:
            yield from _tensors(part)


def _replaced(modules: Sequence[nn.Module], outputs: Sequence[Any]) -> AbstractContextManager[None]:
    """Within it each module gives its recorded output, whatever it is called with."""
    return replaced_forwards((module, _giver(output)) for module, output in zip(modules, outputs, strict=True))


def _giver(output: Any) -> Callable[..., Any]:
    return lambda *arguments, **keywords: output
