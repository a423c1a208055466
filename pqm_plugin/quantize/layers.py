"""Layers with packed weights: same class and forward, with `weight` unpacked on use; and the quantisation error."""

import ctypes
import functools
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pqm_plugin.imports import quick_imports
from pqm_plugin.progress import Bar
from pqm_plugin.quantize.modes import check_mode
from pqm_plugin.quantize.packed import NESTED_BLOCK_SIZE, PackedTensor, WeightFormat, bnb, nested_levels

with quick_imports():
    from bitsandbytes import matmul_4bit

_SCRATCH = threading.local()
_LARGEST_BLOCK = 1024
"""From 2048 on bitsandbytes computes otherwise, for its kernel's accuracy."""


def unpack_for_now(pack: PackedTensor) -> Tensor:
    """What `pack.unpack()` gives, bit for bit, in memory that is valid until this thread's next call.

    bitsandbytes' own kernel for a CPU, called without its wrapper, which has no `out` there. Where it is missing or not
    meant for such a weight, the result has memory of its own.
    """
    kernel = _kernel(pack.weight_format.quant_type)
    n = pack.shape.numel()
    if kernel is None or pack.codes.device.type != "cpu" or n % 2 or pack.weight_format.block_size > _LARGEST_BLOCK:
        return pack.unpack()
    found = _memory(n)
    scales = pack.scales()
    sizes = (ctypes.c_longlong(size) for size in (pack.weight_format.block_size, 1, n))
    kernel(*(ctypes.c_void_p(tensor.data_ptr()) for tensor in (pack.codes, scales, found)), *sizes)
    return found.view(pack.shape)


@functools.cache
def _kernel(quant_type: str) -> Callable[..., Any] | None:
    found = getattr(bnb.lib, f"cdequantize_blockwise_cpu_{quant_type}_fp32", None)
    # A library without it gives a function that only raises.
    return found if hasattr(found, "argtypes") else None


def _memory(n: int) -> Tensor:
    """The first `n` float32 of this thread's own memory, which grows to the largest that was asked for."""
    kept: Tensor | None = getattr(_SCRATCH, "memory", None)
    if kept is None or len(kept) < n:
        kept = _SCRATCH.memory = torch.empty(n, dtype=torch.float32, device="cpu")
    return kept[:n]


def unpack_rows(pack: PackedTensor, rows: Tensor) -> Tensor:
    """Rows of a packed matrix (V, D), float32 (*rows.shape, D), with the bits that `unpack` gives them.

    Args:
        rows: int64 or int32 of any shape, values in [0, V).
    """
    width = pack.shape[1:].numel()
    places = rows.reshape(-1, 1).long() * width + torch.arange(width, device=rows.device)
    two = pack.codes[places // 2]
    # The first of two weights in a byte is in its upper half.
    codes = torch.where(places % 2 == 0, two >> 4, two & 15).long()
    levels = bnb.get_4bit_type(pack.weight_format.quant_type, device=rows.device)
    values = levels[codes] * pack.scales()[places // pack.weight_format.block_size]
    return values.reshape(*rows.shape, *pack.shape[1:])


def unpack_in_parts(pack: PackedTensor, size_bytes: int) -> Iterator[Tensor]:
    """The rows of a packed matrix one stretch after another, each of about `size_bytes` as float32 at most.

    Each is in memory that the next one takes.
    """
    width = pack.shape[1:].numel()
    fmt = pack.weight_format
    unit = fmt.block_size * (NESTED_BLOCK_SIZE if fmt.double_quantize else 1)
    rows_a_unit = torch.lcm(torch.tensor(unit), torch.tensor(width)).item() // width
    step = int(rows_a_unit * max(1, size_bytes // (4 * width * rows_a_unit)))
    for first in range(0, pack.shape[0], step):
        yield unpack_for_now(_stretch(pack, first, min(first + step, pack.shape[0])))


def _stretch(pack: PackedTensor, first: int, end: int) -> PackedTensor:
    """The same codes and scales, seen from row `first`, where blocks begin, to row `end`."""
    shape = torch.Size((end - first, *pack.shape[1:]))
    offset = first * pack.shape[1:].numel()
    starts = {"codes": 2, "absmax": pack.weight_format.block_size}
    starts["nested_absmax"] = starts["absmax"] * NESTED_BLOCK_SIZE
    tensors = {}
    for name, (expected, _) in PackedTensor.expected_tensors(shape, pack.weight_format).items():
        whole = getattr(pack, name)
        start = offset // starts[name] if name in starts else 0
        tensors[name] = whole[start : start + expected[0]] if expected else whole
    return PackedTensor(tensors, shape, pack.weight_format)


_TRIAL = (3, 40, 2)
"""Rows, outputs, and blocks in a row of inputs."""
_TOLERANCE = 1e-4


def kernel_takes(x: Tensor, pack: PackedTensor) -> bool:
    """Whether `kernel_product` is for this: on a GPU, without gradients, for a matrix whose rows are whole blocks.

    Elsewhere weights are unpacked and torch multiplies. Gradients would need the unpacked weight anyway; blocks that
    span rows are not known to the kernel (bitsandbytes then unpacks, too, and warns at every call). The first time that
    a format is met on a device, the kernel's product is compared with torch's; where it is another, it is not used.
    """
    if not x.is_cuda or torch.is_grad_enabled() or len(pack.shape) != 2 or not x.numel():
        return False
    return not pack.shape[1] % pack.weight_format.block_size and _agrees(x.device, pack.weight_format)


def kernel_product(x: Tensor, pack: PackedTensor, bias: Tensor | None) -> Tensor:
    """`x` (…, in) times a packed matrix (out, in), and `bias`; (…, out), both in the dtype of `x`, sums in float32."""
    fmt = pack.weight_format
    nested = None
    if fmt.double_quantize:
        levels = nested_levels(pack.codes.device)
        nested = bnb.QuantState(pack.nested_absmax, code=levels, blocksize=NESTED_BLOCK_SIZE, dtype=torch.float32)
    state = bnb.QuantState(
        pack.absmax,
        shape=pack.shape,
        code=bnb.get_4bit_type(fmt.quant_type, device=pack.codes.device),
        blocksize=fmt.block_size,
        quant_type=fmt.quant_type,
        dtype=x.dtype,
        offset=pack.nested_offset if nested else None,
        state2=nested,
    )
    product: Tensor = matmul_4bit(x, pack.codes, state, bias=None if bias is None else bias.to(x.dtype))
    return product


@functools.cache
def _agrees(device: torch.device, weight_format: WeightFormat) -> bool:
    n_rows, n_outputs, n_blocks = _TRIAL
    noise = torch.Generator().manual_seed(0)
    weight = torch.randn(n_outputs, n_blocks * weight_format.block_size, generator=noise)
    x = torch.randn(n_rows, weight.shape[1], generator=noise).to(device)
    pack = PackedTensor.pack(weight, weight_format).to(device)
    expected = functional.linear(x, pack.unpack())
    gap = float((kernel_product(x, pack, None) - expected).abs().max() / expected.abs().max())
    if gap < _TOLERANCE:
        return True
    logging.warning("%s: bitsandbytes' product in 4 bits differs by %.2g: weights are unpacked instead", device, gap)
    return False


_PART_BYTES = 2**22
"""A weight that is larger as float32 is unpacked in parts of this size, where no gradient is asked for."""


class PackedWeight:
    """Mixed into a layer's class: `weight` is unpacked from 4 bits, once or at every use.

    A layer stays an instance of its own class (`nn.Linear`, `nn.Conv1d`, …): its forward, and peft's way of wrapping
    it, are those of the float layer. `expanded` is None in mode `small`, float32 in `exact`.
    """

    packed: PackedTensor
    expanded: Tensor | None

    @property
    def weight(self) -> Tensor:
        """The dequantised weight, float32, without gradient."""
        return self.packed.unpack() if self.expanded is None else self.expanded

    def weight_for_now(self) -> Tensor:
        """`weight` for a product that is computed at once: without gradients it may lie where the next one will."""
        if self.expanded is not None or torch.is_grad_enabled():
            return self.weight
        return unpack_for_now(self.packed)


class PackedLinear(PackedWeight):
    """A linear map over a packed weight; whatever the mode, it takes and gives the dtype of `input`."""

    bias: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Linear`."""
        # Modules find a buffer slowly, and a search calls this some thousand times for an utterance.
        expanded = self.expanded
        if expanded is not None:
            return functional.linear(input, expanded, self.bias)
        if kernel_takes(input, self.packed):
            return kernel_product(input, self.packed, self.bias)
        if 4 * self.packed.shape.numel() <= _PART_BYTES or torch.is_grad_enabled():
            return functional.linear(input, self.weight_for_now(), self.bias)
        parts = [functional.linear(input, weight) for weight in unpack_in_parts(self.packed, _PART_BYTES)]
        product = torch.cat(parts, dim=-1)
        return product if self.bias is None else product + self.bias


class PackedEmbedding(PackedWeight):
    """An embedding over a packed weight; in mode `small` only the rows that are asked for are unpacked."""

    def forward(self, input: Tensor) -> Tensor:
        """As `nn.Embedding` without a limit on norms, which no gradient reaches anyway."""
        if self.expanded is None:
            return unpack_rows(self.packed, input)
        return functional.embedding(input, self.expanded)


class PackedConv(PackedWeight):
    """A convolution over a packed weight."""

    bias: Tensor | None
    _conv_forward: Any

    def forward(self, input: Tensor) -> Tensor:
        """As the convolution itself."""
        found: Tensor = self._conv_forward(input, self.weight_for_now(), self.bias)
        return found


@functools.cache
def _packed_class(cls: type[nn.Module]) -> type[nn.Module]:
    mixins = {nn.Linear: PackedLinear, nn.Embedding: PackedEmbedding, nn.Conv1d: PackedConv, nn.Conv2d: PackedConv}
    # A subclass may have a forward of its own: only `weight` is changed there.
    mixin = mixins.get(cls, PackedWeight)
    return type(f"Packed{cls.__name__}", (mixin, cls), {"__doc__": f"{cls.__name__} with a 4-bit weight."})


def quantize_layers(network: nn.Module, names: Sequence[str], weight_format: WeightFormat, mode: str = "exact") -> None:
    """Quantise the weights of the named layers of `network`, in place; layers that share a weight go on sharing it.

    Raises:
        ValueError: if a name is not a layer with a weight, or the list is empty.
    """
    if not names:
        raise ValueError("no layer to quantize was named: an empty list would leave the model as it is")
    packs: dict[int, PackedTensor] = {}
    for name in Bar(names, desc="pack", unit="layer", delay=5):
        weight = getattr(network.get_submodule(name), "weight", None)
        if not isinstance(weight, nn.Parameter):
            raise ValueError(f"{name} has no float weight to quantize")
        pack = packs.setdefault(id(weight), PackedTensor.pack(weight, weight_format))
        install(network.get_submodule(name), pack, mode)


def install(layer: nn.Module, pack: PackedTensor, mode: str) -> None:
    """Let `layer` take its weight from `pack`.

    Args:
        mode: `exact` keeps an unpacked float32 copy in memory; `small` keeps the codes only and unpacks at every use,
            with the same result, but on a GPU up to the order of sums, see `kernel_product`.

    Raises:
        ValueError: for another mode, or a pack that is not of the layer's shape.
    """
    check_mode(mode)
    shape = layer.get_parameter("weight").shape
    if shape != pack.shape:
        raise ValueError(f"packed weight of shape {tuple(pack.shape)} for a layer of {tuple(shape)}")
    del layer._parameters["weight"]
    layer.__class__ = _packed_class(type(layer))  # type: ignore[arg-type]
    layer.register_buffer("expanded", pack.unpack() if mode == "exact" else None, persistent=False)
    layer.add_module("packed", pack)


def unpack_layers(network: nn.Module) -> None:
    """Give packed layers of `network` float32 parameters again, in place: the very values that they compute with.

    Layers that share a weight go on sharing it.
    """
    weights: dict[int, nn.Parameter] = {}
    for layer in packed_layers(network).values():
        key = id(layer.packed)
        if key not in weights:
            weights[key] = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
        del layer._modules["packed"], layer._buffers["expanded"]
        layer._non_persistent_buffers_set.discard("expanded")
        layer.__class__ = type(layer).__bases__[1]
        layer.weight = weights[key]


def packed_layers(network: nn.Module) -> Mapping[str, Any]:
    """Every layer of `network` with a packed weight, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, PackedWeight)}


def weights_of(network: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Copies of the named layers' float weights, to be compared with afterwards."""
    return {name: network.get_parameter(f"{name}.weight").detach().clone() for name in names}


def measure(network: nn.Module, kinds: Mapping[str, str], before: Mapping[str, Tensor]) -> dict[str, Any]:
    """Parameters, bytes and relative RMS error of each kind of layer, and how many parameters stayed as they were.

    Args:
        kinds: kind of every quantised layer, by name.
        before: their float weights, see `weights_of`.
    """
    rows: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    seen: set[int] = set()
    for name, layer in packed_layers(network).items():
        row = rows[kinds[name]]
        row["layers"] += 1
        if id(layer.packed) in seen:  # a weight that two layers share
            continue
        seen.add(id(layer.packed))
        row["parameters"] += before[name].numel()
        row["size_bytes"] += layer.packed.size_bytes
        row["error"] += float((layer.weight - before[name]).square().sum())
        row["energy"] += float(before[name].square().sum())
    table = [
        {
            "kind": kind,
            "layers": int(row["layers"]),
            "parameters": int(row["parameters"]),
            "size_bytes": int(row["size_bytes"]),
            "relative_error": (row["error"] / row["energy"]) ** 0.5,
        }
        for kind, row in sorted(rows.items())
    ]
    rest = sum(parameter.numel() for parameter in network.parameters())
    quantized = int(sum(row["parameters"] for row in rows.values()))
    return {"kinds": table, "parameters": quantized + rest, "parameters_not_quantized": rest}
