"""One tensor in 4 bits; bitsandbytes is imported only here, without the compiler that it loads."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from pqm_plugin.imports import quick_imports

# It would fetch kernels of a hub with `kernels`, at a mere import.
with quick_imports(without=("kernels",)):
    from bitsandbytes import functional as bnb

NESTED_BLOCK_SIZE = 256
"""So many scales have one scale of their own where they are quantised, too."""


@functools.cache
def nested_levels(device: torch.device) -> Tensor:
    """The 256 levels of a quantised scale, float32; bitsandbytes takes longer to make them than to unpack a layer."""
    return bnb.create_dynamic_map().to(device)


@dataclass(frozen=True)
class WeightFormat:
    """How weights become 4-bit codes and scales."""

    quant_type: str = "nf4"
    block_size: int = 64
    double_quantize: bool = False

    def __post_init__(self) -> None:
        if self.quant_type not in ("nf4", "fp4"):
            raise ValueError(f"quant_type {self.quant_type!r}: use 'nf4' or 'fp4'")
        if self.block_size not in (32, 64, 128, 256, 512, 1024, 2048, 4096):
            raise ValueError(f"block_size {self.block_size}: use a power of two from 32 to 4096")


class PackedTensor(nn.Module):
    """The codes and scales of one weight.

    Buffers: `codes` uint8 (ceil(n/2),), two weights a byte; `absmax`, a scale a block: float32 (ceil(n/block),),
    or uint8 of that shape with double quantisation, and then `nested_absmax` float32 (ceil(n_blocks/256),) and
    `nested_offset` float32 ().

    Source: Dettmers et al. 2023 (QLoRA), section 3.
    """

    codes: Tensor
    absmax: Tensor
    nested_absmax: Tensor
    nested_offset: Tensor

    def __init__(self, tensors: Mapping[str, Tensor], shape: Sequence[int], weight_format: WeightFormat) -> None:
        super().__init__()
        self.shape = torch.Size(shape)
        self.weight_format = weight_format
        expected = self.expected_tensors(self.shape, weight_format)
        found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
        if found != expected:
            raise ValueError(f"packed tensors {found} do not fit a weight of shape {tuple(shape)}: expected {expected}")
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.contiguous())

    @staticmethod
    def expected_tensors(shape: torch.Size, fmt: WeightFormat) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Name, shape and dtype of every buffer that a weight of `shape` has."""
        n = shape.numel()
        n_blocks = -(-n // fmt.block_size)
        tensors: dict[str, tuple[tuple[int, ...], torch.dtype]] = {"codes": ((-(-n // 2),), torch.uint8)}
        if not fmt.double_quantize:
            return tensors | {"absmax": ((n_blocks,), torch.float32)}
        return tensors | {
            "absmax": ((n_blocks,), torch.uint8),
            "nested_absmax": ((-(-n_blocks // NESTED_BLOCK_SIZE),), torch.float32),
            "nested_offset": ((), torch.float32),
        }

    @classmethod
    def pack(cls, weight: Tensor, weight_format: WeightFormat) -> Self:
        """Quantise a float weight of any shape.

        The weight goes through bitsandbytes flattened: its CPU code gives wrong values for a last dimension that is
        no multiple of the block size.
        """
        flat = weight.detach().to(torch.float32).contiguous().reshape(-1)
        codes, state = bnb.quantize_4bit(
            flat,
            blocksize=weight_format.block_size,
            compress_statistics=weight_format.double_quantize,
            quant_type=weight_format.quant_type,
        )
        tensors = {"codes": codes.reshape(-1), "absmax": state.absmax}
        if weight_format.double_quantize:
            tensors |= {"nested_absmax": state.state2.absmax, "nested_offset": state.offset.reshape(())}
        return cls(tensors, weight.shape, weight_format)

    @classmethod
    def of(
        cls, indices: Tensor, scales: Mapping[str, Tensor], shape: Sequence[int], weight_format: WeightFormat
    ) -> Self:
        """A tensor of levels that were chosen elsewhere.

        Args:
            indices: place of each weight's level in `levels`, uint8, in the weight's shape or flattened.
            scales: the tensors that `store_scales` gave.
        """
        flat = indices.reshape(-1).to(torch.uint8)
        # A last weight without a neighbour shares its byte with the level zero.
        pairs = torch.cat([flat, flat.new_zeros(flat.numel() % 2)]).reshape(-1, 2)
        return cls({"codes": pairs[:, 0] << 4 | pairs[:, 1], **scales}, shape, weight_format)

    def unpack(self) -> Tensor:
        """Dequantise to float32 in the weight's own shape, bit for bit the same on every call."""
        state = bnb.QuantState(
            absmax=self.scales(),
            shape=torch.Size([self.shape.numel()]),
            code=bnb.get_4bit_type(self.weight_format.quant_type, device=self.codes.device),
            blocksize=self.weight_format.block_size,
            quant_type=self.weight_format.quant_type,
            dtype=torch.float32,
        )
        return bnb.dequantize_4bit(self.codes.reshape(-1, 1), state).reshape(self.shape)

    def scales(self) -> Tensor:
        """The scale of every block, float32 (n_blocks,)."""
        return read_scales(self.stored())

    def stored(self) -> dict[str, Tensor]:
        """Codes and scales by name.

        Raises:
            ValueError: if they were let go.
        """
        found = {name: tensor for name, tensor in self._buffers.items() if tensor is not None}
        if not found:
            raise ValueError("the codes of this weight were freed: open the model in mode 'small', which keeps them")
        return found

    def let_go(self) -> None:
        """Free codes and scales, for a model whose layers keep what was unpacked; it can then not be written again."""
        self._buffers.clear()

    @property
    def size_bytes(self) -> int:
        """Bytes of codes and scales."""
        return sum(tensor.nbytes for tensor in self.stored().values())


def levels(quant_type: str) -> Tensor:
    """The 16 levels of a 4-bit type in the order of their codes, float32, the largest magnitude being 1."""
    return bnb.get_4bit_type(quant_type, device=torch.device("cpu"))


def store_scales(scales: Tensor, weight_format: WeightFormat) -> dict[str, Tensor]:
    """The tensors in which float32 scales (n_blocks,) are kept; with double quantisation they are rounded."""
    if not weight_format.double_quantize:
        return {"absmax": scales}
    offset = scales.mean()
    codes, state = bnb.quantize_blockwise(scales - offset, blocksize=NESTED_BLOCK_SIZE)
    return {"absmax": codes, "nested_absmax": state.absmax, "nested_offset": offset}


def read_scales(tensors: Mapping[str, Tensor]) -> Tensor:
    """The scales by which levels are multiplied, float32 (n_blocks,), from the tensors of `store_scales`."""
    if "nested_absmax" not in tensors:
        return tensors["absmax"]
    nested = bnb.QuantState(
        absmax=tensors["nested_absmax"],
        code=nested_levels(tensors["absmax"].device),
        blocksize=NESTED_BLOCK_SIZE,
        dtype=torch.float32,
    )
    return bnb.dequantize_blockwise(tensors["absmax"], nested) + tensors["nested_offset"]
