"""A graph of ONNX, written as the bytes of its protobuf, which are few kinds of message; so `onnx` is not needed."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

FLOAT, UINT8, INT8, INT32, INT64, BOOL = 1, 2, 3, 6, 7, 9
_TYPES = {
    np.dtype(np.float32): FLOAT,
    np.dtype(np.uint8): UINT8,
    np.dtype(np.int8): INT8,
    np.dtype(np.int32): INT32,
    np.dtype(np.int64): INT64,
    np.dtype(np.bool_): BOOL,
}
OWN = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""
_OPSETS = {"": 18, OWN: 1}
_IR_VERSION = 9

Shape = Sequence[int | str]
"""Sizes, or names of sizes that are known when the graph runs."""


class Graph:
    """Nodes, one after another; each method that adds one returns the name of its output."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._constants: list[list[bytes | memoryview]] = []
        self._inputs: list[bytes] = []
        self._outputs: list[bytes] = []
        self._known: dict[tuple[str, bytes], str] = {}
        self._n_names = 0

    def name(self, hint: str = "x") -> str:
        """A name that nothing in the graph has."""
        self._n_names += 1
        return f"{hint}_{self._n_names}"

    def input(self, name: str, shape: Shape, kind: int = FLOAT) -> str:
        """A value that the graph is given."""
        self._inputs.append(_value(name, shape, kind))
        return name

    def output(self, value: str, name: str, shape: Shape, kind: int = FLOAT) -> None:
        """Give `value` out under `name`."""
        self._nodes.append(_node("Identity", [value], [name], "", {}))
        self._outputs.append(_value(name, shape, kind))

    def constant(self, array: np.ndarray | np.generic, name: str = "") -> str:
        """A weight; small ones that are equal are kept once."""
        # Not `ascontiguousarray`: it makes a vector of a number.
        array = np.asarray(array, order="C")
        key = (f"{array.dtype}{array.shape}", array.tobytes()) if array.size <= 16 else None
        if key in self._known:
            return self._known[key]
        name = name or self.name("c")
        if key:
            self._known[key] = name
        raw = memoryview(array.reshape(-1).view(np.uint8)) if array.size else memoryview(b"")
        head = b"".join((*(_int(1, size) for size in array.shape), _int(2, _TYPES[array.dtype]), _text(8, name)))
        # The values are copied once, when all is put together.
        self._constants.append([head + _head(9, len(raw)), raw])
        return name

    def ints(self, *values: int) -> str:
        """A constant vector of whole numbers."""
        return self.constant(np.array(values, np.int64))

    def add(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """A node with one output."""
        return self.add_many(op, inputs, 1, domain, **attributes)[0]

    def add_many(
        self, op: str, inputs: Iterable[str], n_outputs: int, domain: str = "", **attributes: Any
    ) -> list[str]:
        """A node with several outputs."""
        outputs = [self.name(op) for _ in range(n_outputs)]
        self._nodes.append(_node(op, inputs, outputs, domain, attributes))
        return outputs

    def serialized(self) -> bytes:
        """The model as ONNX Runtime takes it."""
        graph: list[list[bytes | memoryview]] = [_head_of(1, node) for node in self._nodes]
        graph.append([_text(2, "pqm")])
        graph += [[_head(5, sum(map(len, parts))), *parts] for parts in self._constants]
        graph += [_head_of(11, value) for value in self._inputs]
        graph += [_head_of(12, value) for value in self._outputs]
        flat = [part for parts in graph for part in parts]
        opsets = [_message(8, _text(1, domain) + _int(2, version)) for domain, version in _OPSETS.items()]
        size = sum(map(len, flat))
        return b"".join((_int(1, _IR_VERSION), _text(2, "pqm"), *opsets, _head(7, size), *flat))


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _int(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _head(field: int, size: int) -> bytes:
    return _varint(field << 3 | 2) + _varint(size)


def _head_of(field: int, data: bytes) -> list[bytes | memoryview]:
    return [_head(field, len(data)), data]


def _message(field: int, data: bytes) -> bytes:
    return _head(field, len(data)) + data


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())


def _attribute(name: str, value: Any) -> bytes:
    head = _text(1, name)
    if isinstance(value, float):
        return head + _varint(2 << 3 | 5) + struct.pack("<f", value) + _int(20, 1)
    if isinstance(value, int):
        return head + _int(3, value) + _int(20, 2)
    if isinstance(value, str):
        return head + _text(4, value) + _int(20, 3)
    return head + b"".join(_int(8, each) for each in value) + _int(20, 7)


def _node(op: str, inputs: Iterable[str], outputs: Sequence[str], domain: str, attributes: Mapping[str, Any]) -> bytes:
    parts = [*(_text(1, name) for name in inputs), *(_text(2, name) for name in outputs)]
    parts += [_text(3, outputs[0]), _text(4, op)]
    parts += [_message(5, _attribute(name, value)) for name, value in attributes.items()]
    if domain:
        parts.append(_text(7, domain))
    return b"".join(parts)


def _value(name: str, shape: Shape, kind: int) -> bytes:
    sizes = b"".join(_message(1, _int(1, size) if isinstance(size, int) else _text(2, size)) for size in shape)
    tensor = _int(1, kind) + _message(2, sizes)
    return _text(1, name) + _message(2, _message(1, tensor))
