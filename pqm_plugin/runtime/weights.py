"""The numbers of a packed model and of its adapters in numpy, bit for bit as `quantize/packed.py` unpacks them."""

import functools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from pqm_plugin.adapters.files import check_adapter, read_info_for
from pqm_plugin.adapters.options import WEIGHTS
from pqm_plugin.errors import PqmError

FORMAT_VERSION = 1
_DTYPES = {"F32": np.float32, "U8": np.uint8, "I64": np.int64, "F64": np.float64, "F16": np.float16, "BF16": np.uint16}
_NESTED_BLOCK = 256
_LEVELS = {
    "nf4": (
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    )
}
_WHOLE_BLOCKS = tuple(2**power for power in range(4, 13))  # sizes that ONNX Runtime unpacks
_CHUNK = 1 << 20  # weights that are unpacked at once
_PREFIX, _DOWN, _UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


class NotHereError(PqmError):
    """The runtime cannot compute this model; torch can."""


@functools.cache
def nested_levels() -> np.ndarray:
    """The 256 levels of a quantised scale, float32 (256,).

    Source: Dettmers 2016 (8-bit approximations for parallelism in deep learning), the dynamic tree type.
    """
    found: list[float] = [0.0, 1.0]
    for place in range(7):
        bounds = _even(2**place + 1)
        means = (bounds[:-1] + bounds[1:]) / np.float32(2)
        found += (np.float32(10.0 ** (place - 6)) * means).tolist()
        found += (np.float32(-(10.0 ** (place - 6))) * means).tolist()
    return np.array(sorted(found), np.float32)


def _even(n: int) -> np.ndarray:
    """`n` numbers from 0.1 to 1 with the float32 roundings of torch's `linspace`, which goes inwards from both ends.

    A product and its sum are rounded once.
    """
    first, last, places = np.float32(0.1), np.float32(1), np.arange(n, dtype=np.float64)
    step = np.float64((last - first) / np.float32(n - 1))
    found = np.where(places < n // 2, first + step * places, last - step * (n - 1 - places))
    return found.astype(np.float32)


def float_of(raw: np.ndarray, kind: str) -> np.ndarray:
    """Float32 of what a safetensors file holds as `kind`."""
    if kind == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32)


class TensorFile:
    """A safetensors file whose tensors are read as they are asked for; the library has checked its header."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            PqmError: if it is damaged.
        """
        self.path = path
        try:
            with safe_open(path, framework="np") as file:
                self.metadata: Mapping[str, str] = file.metadata() or {}
            self._file = path.open("rb")
            size = int.from_bytes(self._file.read(8), "little")
            self._table = json.loads(self._file.read(size))
        except (SafetensorError, OSError, ValueError) as error:
            raise PqmError(f"{path} is damaged ({str(error).splitlines()[0]}): fetch or make it again") from error
        self._table.pop("__metadata__", None)
        self._start = 8 + size

    def names(self) -> list[str]:
        """Of all tensors."""
        return list(self._table)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor."""
        return tuple(self._table[name]["shape"])

    def kind(self, name: str) -> str:
        """The type of a tensor, as the format calls it: `F32`, `BF16`, `U8`, …."""
        return str(self._table[name]["dtype"])

    def raw(self, name: str) -> np.ndarray:
        """A tensor as it is stored; bfloat16 as uint16.

        Raises:
            PqmError: if it is of a type that no packed model has.
        """
        entry = self._table[name]
        if entry["dtype"] not in _DTYPES:
            raise PqmError(f"{self.path}: {name} is of type {entry['dtype']}, which no packed model has: make it again")
        first, last = entry["data_offsets"]
        data = os.pread(self._file.fileno(), last - first, self._start + first)
        return np.frombuffer(data, _DTYPES[entry["dtype"]]).reshape(entry["shape"])

    def array(self, name: str) -> np.ndarray:
        """A tensor as float32, or as the whole numbers that it holds."""
        raw = self.raw(name)
        return float_of(raw, self.kind(name)) if self.kind(name) not in ("U8", "I64") else raw


@dataclass(frozen=True)
class Packed:
    """One weight in 4 bits: `codes` uint8, two weights a byte, and `scales`, float32, one a block."""

    shape: tuple[int, ...]
    block_size: int
    codes: np.ndarray
    scales: np.ndarray
    levels: np.ndarray

    def flat(self, first: int, last: int) -> np.ndarray:
        """The flattened weights from `first` up to `last`, float32; `first` is even."""
        found = _pairs(self.levels.tobytes())[self.codes[first // 2 : (last + 1) // 2]].reshape(-1)[: last - first]
        block, skipped = first // self.block_size, first % self.block_size
        scales = self.scales[block : -(-last // self.block_size)]
        if skipped or (last - first) % self.block_size:
            return found * np.repeat(scales, self.block_size)[skipped : skipped + last - first]
        return (found.reshape(-1, self.block_size) * scales[:, None]).reshape(-1)

    def unpack(self) -> np.ndarray:
        """All weights, float32 in their shape."""
        n = math.prod(self.shape)
        out = np.empty(n, np.float32)
        for first in range(0, n, _CHUNK):
            last = min(n, first + _CHUNK)
            out[first:last] = self.flat(first, last)
        return out.reshape(self.shape)

    def rows(self, places: np.ndarray) -> np.ndarray:
        """The rows of a matrix that `places` (n,) names, float32 (n, columns)."""
        columns = self.shape[1]
        flat = places[:, None] * columns + np.arange(columns)
        codes = self.codes[flat // 2]
        levels = np.where(flat % 2 == 0, codes >> 4, codes & 15)
        return self.levels[levels] * self.scales[flat // self.block_size]

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Float32 rows (n, columns) of the matrix that the weight is when flattened from its second dimension on."""
        n_rows, columns = self.shape[0], math.prod(self.shape[1:])
        step = max(2, _CHUNK // columns // 2 * 2)
        for first in range(0, n_rows, step):
            last = min(n_rows, first + step)
            yield first, self.flat(first * columns, last * columns).reshape(-1, columns)


@functools.cache
def _pairs(levels: bytes) -> np.ndarray:
    """Both weights of every byte, float32 (256, 2)."""
    table = np.frombuffer(levels, np.float32)
    codes = np.arange(256)
    return np.stack([table[codes >> 4], table[codes & 15]], 1)


class PackedModel:
    """A packed file: quantised weights by layer, and the rest by name."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            PqmError: if the file is damaged or of another format version.
        """
        self._file = TensorFile(path)
        self.path = path
        try:
            header = json.loads(self._file.metadata.get("pqm", "{}"))
            version = header.get("format_version")
            self._layers, self._tied = header.get("layers", {}), header.get("tied", {})
            self.built_in = frozenset(header.get("built_in", ()))
            if not isinstance(self._layers, dict) or not isinstance(self._tied, dict):
                raise TypeError("its header has no table of layers")
        except (ValueError, AttributeError, TypeError) as error:
            raise PqmError(f"{path} is damaged ({error}): fetch or make it again") from error
        if version != FORMAT_VERSION:
            raise PqmError(
                f"{path} has format version {version}, this program reads {FORMAT_VERSION}: quantize the model again"
            )
        self._left = set(self._file.names())

    def packed(self, layer: str) -> Packed:
        """The 4-bit weight of `layer`.

        Raises:
            PqmError: if parts of it are missing or do not fit its shape.
            NotHereError: if it is of a type that is not known here.
        """
        try:
            entry = self._layers[layer]
            owner = entry.get("same_as", layer)
            entry = self._layers[owner]
            shape = tuple(int(size) for size in entry["shape"])
            block, nested = int(entry.get("block_size", 64)), bool(entry.get("double_quantize", False))
            quant_type = entry.get("quant_type", "nf4")
            if quant_type not in _LEVELS:
                raise NotHereError(f"weights of type {quant_type}")
            codes, scales = self._tensor(f"{owner}.weight.codes"), self._tensor(f"{owner}.weight.absmax")
            n_blocks = -(-math.prod(shape) // block)
            if codes.shape != (-(-math.prod(shape) // 2),) or scales.shape != (n_blocks,) or codes.dtype != np.uint8:
                raise ValueError(f"codes {codes.shape} and scales {scales.shape} for a weight of {shape}")
            if nested:
                scales = self._nested(owner, scales)
            elif scales.dtype != np.float32:
                raise ValueError(f"scales of {scales.dtype}")
        except PqmError:
            raise
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise PqmError(f"{self.path}: packed weight of {layer} is missing or unfit ({error})") from error
        return Packed(shape, block, codes, scales, np.array(_LEVELS[quant_type], np.float32))

    def _nested(self, owner: str, codes: np.ndarray) -> np.ndarray:
        absmax, offset = (self._tensor(f"{owner}.weight.{name}") for name in ("nested_absmax", "nested_offset"))
        if codes.dtype != np.uint8 or absmax.shape != (-(-len(codes) // _NESTED_BLOCK),) or offset.shape != ():
            raise ValueError(f"nested scales {absmax.shape} for {len(codes)}")
        return nested_levels()[codes] * np.repeat(absmax, _NESTED_BLOCK)[: len(codes)] + offset

    def is_packed(self, layer: str) -> bool:
        """Whether the weight of `layer` is in 4 bits; else it is an `array`."""
        return layer in self._layers

    def _tensor(self, name: str) -> np.ndarray:
        self._left.discard(name)
        return self._file.array(name)

    def array(self, name: str, shape: Sequence[int]) -> np.ndarray:
        """A parameter or buffer that is not in 4 bits, float32 in `shape`.

        Raises:
            PqmError: if it is missing or of another shape.
        """
        owner = self._tied.get(name, name)
        if owner not in self._file.names():
            raise PqmError(f"{self.path} does not fit this model: missing {name}")
        found = self._tensor(owner)
        if found.shape != tuple(shape):
            raise PqmError(f"{self.path}: {name} has shape {found.shape}, the model {tuple(shape)}")
        return found.astype(np.float32, copy=False)

    def weight(self, layer: str, shape: Sequence[int]) -> "Packed | np.ndarray":
        """The weight of `layer`, in 4 bits or float32, in `shape`.

        Raises:
            PqmError: if it is missing or of another shape.
        """
        if not self.is_packed(layer):
            return self.array(f"{layer}.weight", shape)
        found = self.packed(layer)
        if found.shape != tuple(shape):
            raise PqmError(f"{self.path}: {layer} has a weight of shape {found.shape}, the model {tuple(shape)}")
        return found

    def floats(self, layer: str, shape: Sequence[int]) -> np.ndarray:
        """The same, float32 in any case."""
        found = self.weight(layer, shape)
        return found.unpack() if isinstance(found, Packed) else found

    def has(self, name: str) -> bool:
        """Whether there is a parameter or buffer of that name that is not in 4 bits."""
        return self._tied.get(name, name) in self._file.names()

    def check_all_used(self, but: tuple[str, ...] = ()) -> None:
        """See that nothing in the file was left unread.

        Args:
            but: how names begin that were not asked for.

        Raises:
            PqmError: if the model of its configuration has no place for some of it.
        """
        if left := [name for name in sorted(self._left) if not name.startswith(but)]:
            raise PqmError(f"{self.path} does not fit this model: unknown {left[:5]}")


def bytewise(weights: "Sequence[Packed | np.ndarray]") -> tuple[np.ndarray, np.ndarray]:
    """Matrices (out, in), one below the other, in 8 bits: int8 (in, outs) and the scale of every output, float32.

    A row's largest magnitude is 127.
    """
    n_rows, columns = sum(weight.shape[0] for weight in weights), math.prod(weights[0].shape[1:])
    found, scales = np.empty((columns, n_rows), np.int8), np.empty(n_rows, np.float32)
    start = 0
    for weight in weights:
        for first, rows in _row_blocks(weight):
            largest = np.maximum(np.abs(rows).max(1), np.float32(1e-30))
            places = slice(start + first, start + first + len(rows))
            scales[places] = largest / 127
            rows = rows * (127 / largest)[:, None]
            found[:, places] = np.rint(rows, out=rows).astype(np.int8).T
        start += weight.shape[0]
    return found, scales


def joined(weights: "Sequence[Packed | np.ndarray]") -> Packed | None:
    """Matrices (out, in), one below the other, as one in 4 bits; None where they are not, or their blocks overlap."""
    first = weights[0]
    if not isinstance(first, Packed) or first.block_size not in _WHOLE_BLOCKS:
        return None
    parts = [weight for weight in weights if isinstance(weight, Packed) and weight.block_size == first.block_size]
    if len(parts) < len(weights) or any(math.prod(part.shape) % first.block_size for part in parts[:-1]):
        return None
    shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
    codes, scales = (np.concatenate([getattr(part, name) for part in parts]) for name in ("codes", "scales"))
    return Packed(shape, first.block_size, codes, scales, first.levels)


def _row_blocks(weight: "Packed | np.ndarray") -> Iterator[tuple[int, np.ndarray]]:
    return weight.blocks() if isinstance(weight, Packed) else iter([(0, weight.reshape(weight.shape[0], -1))])


@dataclass(frozen=True)
class Lora:
    """An adapter: by layer its factors, float32 (rank, in, …) and (out, rank, …), the latter times its scale."""

    factors: Mapping[str, tuple[np.ndarray, np.ndarray]]


def read_lora(folder: Path, base_sha256: str) -> Lora:
    """Read an adapter that `save_adapter` or plain peft wrote.

    Raises:
        PqmError: if it was made for another base, is damaged, or is more than a plain LoRA.
    """
    read_info_for(folder, base_sha256)
    config = check_adapter(folder)
    file = TensorFile(folder / WEIGHTS)
    names = sorted({name.removeprefix(_PREFIX).rpartition(".lora_")[0] for name in file.names()})
    if len(file.names()) != 2 * len(names):
        raise _damaged(folder, f"{WEIGHTS} lacks a factor of a layer")
    known, scale = frozenset(config["target_modules"]), float(config["lora_alpha"]) / int(config["r"])
    ends = tuple(f".{target}" for target in known)
    factors: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name in names:
        if name not in known and not name.endswith(ends):
            raise _damaged(folder, f"{WEIGHTS} holds {name[:80]!r}, which is none of its target_modules")
        try:
            down, up = (file.array(f"{_PREFIX}{name}{end}") for end in (_DOWN, _UP))
        except KeyError as error:
            raise _damaged(folder, f"{WEIGHTS} lacks {error}") from error
        if not down.size or not up.size:
            raise _damaged(folder, f"{WEIGHTS} holds a factor without values")
        factors[name] = (down, up * np.float32(scale))
    return Lora(factors)


def _damaged(folder: Path, why: str) -> PqmError:
    return PqmError(f"{folder} is damaged ({why}): delete it and run its stage again")
