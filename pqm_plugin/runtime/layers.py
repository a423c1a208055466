"""What layers are in a graph of ONNX: products in 8 bits, LoRA by row, normalisation, attention."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pqm_plugin.runtime.graph import OWN, Graph
from pqm_plugin.runtime.processor import takes_signed_weights
from pqm_plugin.runtime.weights import Packed, PackedModel, bytewise, joined

_SMALLEST = np.float32(1e-30)
_LEVELS = 127
_NF4 = 1  # as ONNX Runtime numbers it

Shapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
"""By the name of an adapted layer, the shapes of its factors: (rank, in, …) and (out, rank, …)."""


@dataclass(frozen=True)
class Layers:
    """Layers of one packed model as nodes of one graph.

    `adapted` are the layers with LoRA; the factors are inputs `<layer>.down` (B, in, rank) and `<layer>.up`
    (B, rank, out), for B pieces. With `whole` products are computed in float32; with `packed`, too, but weights of 4
    bits stay so and are unpacked at every use, which costs little where an input has a hundred rows. Else weights have
    8 bits and a scale for each output, and inputs 8 bits and a scale for each row, so that no row depends on others.
    """

    graph: Graph
    model: PackedModel
    adapted: Shapes
    whole: bool = False
    packed: bool = False

    def linear(
        self,
        x: str,
        names: Sequence[str],
        n_in: int,
        n_outs: Sequence[int],
        *,
        unbiased: Sequence[str] = (),
        tail: tuple[int, ...] = (),
    ) -> list[str]:
        """Products of one input (rows, …, n_in) with the weights of several layers, computed as one.

        Args:
            unbiased: those of them without a bias.
            tail: of their weights' shapes, (1,) for a convolution over one place.
        """
        graph = self.graph
        shapes = [(n_out, n_in, *tail) for n_out in n_outs]
        weights = [self.model.weight(name, shape) for name, shape in zip(names, shapes, strict=True)]
        if self.packed and (whole := joined(weights)) is not None:
            found = self._in_four_bits(x, whole)
        elif self.whole:
            parts = [weight.unpack() if isinstance(weight, Packed) else weight for weight in weights]
            found = graph.add("MatMul", x, graph.constant(np.concatenate(parts).reshape(-1, n_in).T))
        else:
            found = self._in_bytes(x, *bytewise(weights))
        biases = [
            np.zeros(n_out, np.float32) if name in unbiased else self.model.array(f"{name}.bias", (n_out,))
            for name, n_out in zip(names, n_outs, strict=True)
        ]
        if any(name not in unbiased for name in names):
            found = graph.add("Add", found, graph.constant(np.concatenate(biases)))
        outputs = (
            [found] if len(names) == 1 else graph.add_many("Split", [found, graph.ints(*n_outs)], len(names), axis=-1)
        )
        return [self._with_lora(x, output, name) for output, name in zip(outputs, names, strict=True)]

    def _in_four_bits(self, x: str, weight: Packed) -> str:
        """Product with a weight (out, in) that stays packed, in the arithmetic of float32."""
        graph, n_out = self.graph, weight.shape[0]
        n_in = math.prod(weight.shape[1:])
        sizes = {"N": n_out, "K": n_in, "block_size": weight.block_size, "quant_type": _NF4}
        return graph.add("MatMulBnb4", x, *map(graph.constant, (weight.codes, weight.scales)), domain=OWN, **sizes)

    def _in_bytes(self, x: str, weight: np.ndarray, scales: np.ndarray) -> str:
        """Product with a weight int8 (in, out)."""
        graph = self.graph
        largest = graph.add("ReduceMax", graph.add("Abs", x), graph.ints(-1), keepdims=1)
        largest = graph.add("Max", largest, graph.constant(_SMALLEST))
        unit, zero = graph.constant(np.float32(1 / _LEVELS)), graph.constant(np.uint8(128))
        rows = graph.add("QuantizeLinear", graph.add("Div", x, largest), unit, zero)
        inputs = [rows, graph.constant(weight), unit, graph.constant(scales), zero]
        if not takes_signed_weights():
            inputs[1] = graph.constant(weight.view(np.uint8) ^ 0x80)
            inputs.append(graph.constant(np.full(len(scales), 128, np.uint8)))
        return graph.add("Mul", graph.add("MatMulIntegerToFloat", *inputs, domain=OWN), largest)

    def _with_lora(self, x: str, output: str, name: str) -> str:
        if name not in self.adapted:
            return output
        graph = self.graph
        down, up = self._factors(name)
        # All hypotheses of a piece have its adapter.
        n_in = self.adapted[name][0][1]
        pieces = graph.add("Slice", graph.add("Shape", down), graph.ints(0), graph.ints(1))
        shape = graph.add("Concat", pieces, graph.ints(-1, n_in), axis=0)
        by_piece = graph.add("Reshape", x, shape)
        added = graph.add("MatMul", graph.add("MatMul", by_piece, down), up)
        return graph.add("Add", output, graph.add("Reshape", added, graph.add("Shape", output)))

    def _factors(self, name: str) -> tuple[str, str]:
        down, up = self.adapted[name]
        n_in = math.prod(down[1:])
        graph = self.graph
        return (
            graph.input(f"{name}.down", ["pieces", n_in, f"{name}.rank"]),
            graph.input(f"{name}.up", ["pieces", f"{name}.rank", up[0]]),
        )

    def convolution(self, x: str, name: str, shape: tuple[int, int, int], stride: int) -> str:
        """A convolution over time of (B, in, T) with three taps and as many frames of silence at both ends as it needs.

        Args:
            shape: of the weight, (out, in, 3); T is a multiple of `stride`.
        """
        graph = self.graph
        weight = graph.constant(self.model.floats(name, shape))
        bias = graph.constant(self.model.array(f"{name}.bias", shape[:1]))
        found = graph.add("Conv", x, weight, bias, pads=[1, 1], strides=[stride], kernel_shape=[3])
        if name not in self.adapted:
            return found
        down, up = self._factors(name)
        padded = graph.add("Pad", x, graph.ints(0, 0, 1, 0, 0, 1))
        ends = [-2, -1, np.iinfo(np.int64).max]
        taps = [
            graph.add("Slice", padded, graph.ints(place), graph.ints(end), graph.ints(2), graph.ints(stride))
            for place, end in enumerate(ends)
        ]
        # (B, T, 3 in): taps of an input channel are together, as in the factor.
        stacked = graph.add("Concat", *(graph.add("Unsqueeze", tap, graph.ints(2)) for tap in taps), axis=2)
        stacked = graph.add("Reshape", stacked, graph.ints(0, 3 * shape[1], -1))
        rows = graph.add("Transpose", stacked, perm=[0, 2, 1])
        added = graph.add("MatMul", graph.add("MatMul", rows, down), up)
        return graph.add("Add", found, graph.add("Transpose", added, perm=[0, 2, 1]))

    def convolution_2d(self, x: str, name: str, shape: tuple[int, int, int, int], stride: int) -> str:
        """A convolution of (B, in, T, D) with a weight in `shape`, (out, in, taps, taps), without padding."""
        graph = self.graph
        weight = graph.constant(self.model.floats(name, shape))
        bias = graph.constant(self.model.array(f"{name}.bias", shape[:1]))
        return graph.add("Conv", x, weight, bias, strides=[stride] * 2, kernel_shape=list(shape[2:]))

    def norm(self, x: str, name: str, size: int, epsilon: float = 1e-5) -> str:
        """Layer normalisation of the last dimension."""
        graph = self.graph
        scale, shift = (graph.constant(self.model.array(f"{name}.{end}", (size,))) for end in ("weight", "bias"))
        return graph.add("LayerNormalization", x, scale, shift, axis=-1, epsilon=epsilon)

    def gelu(self, x: str) -> str:
        """The exact one, by the error function."""
        return self.graph.add("Gelu", x, domain=OWN)

    def heads(self, x: str, n_heads: int, width: int, perm: Sequence[int] = (0, 2, 1, 3)) -> str:
        """(B, T, heads * width) as (B, heads, T, width), or with `perm` of (B, T, heads, width)."""
        split = self.graph.add("Reshape", x, self.graph.ints(0, -1, n_heads, width))
        return self.graph.add("Transpose", split, perm=list(perm))


def lora_inputs(adapted: Shapes, rows: Sequence[Mapping[str, tuple[np.ndarray, np.ndarray]]]) -> dict[str, np.ndarray]:
    """The inputs of a graph's LoRA for pieces with these factors; what one of them lacks is 0."""
    found: dict[str, np.ndarray] = {}
    for name, (down, up) in adapted.items():
        n_in, n_out = math.prod(down[1:]), up[0]
        rank = max([1, *(row[name][0].shape[0] for row in rows if name in row)])
        downs, ups = np.zeros((len(rows), n_in, rank), np.float32), np.zeros((len(rows), rank, n_out), np.float32)
        for place, row in enumerate(rows):
            if name in row:
                own = row[name][0].shape[0]
                downs[place, :, :own] = row[name][0].reshape(own, -1).T
                ups[place, :own] = row[name][1].reshape(n_out, own).T
        found |= {f"{name}.down": downs, f"{name}.up": ups}
    return found
