"""A device that is not there: torch computes on the CPU, and refuses what no second device would take."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils.weak import WeakIdKeyDictionary

DEVICE = torch.device("cuda", 7)
"""With a number of its own: what is kept for a device must not come to a real one."""
_CPU = torch.device("cpu")
# What is asked of a tensor without computing with it, or gives something that is no longer on a device.
_FREE = {"torch.Tensor.item", "torch.Tensor.tolist", "torch.Tensor.__repr__", "torch.Tensor.__format__"}
_FREE |= {f"torch.Tensor.__{name}__" for name in ("int", "float", "bool", "index", "len", "hash", "deepcopy")}
# These take what lies elsewhere, as torch itself does.
_CROSSING = {"torch.Tensor.copy_", "torch.Tensor.data.__set__", "_has_compatible_shallow_copy_type"}
_CROSSING |= {f"torch.Tensor.{name}_as" for name in ("expand", "view", "reshape")}
_INDEXING = {"torch.Tensor.__getitem__", "torch.Tensor.__setitem__"}

_THERE: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""Tensors that are on the device; not of one context, for some are kept longer."""


def is_there(tensor: torch.Tensor) -> bool:
    """Whether a tensor is on the pretended device."""
    return tensor in _THERE


class PretendedDevice(TorchFunctionMode):
    """Within it, `cuda` can be asked for: tensors remember that they are there, and do not mix with others.

    As on a GPU, a number of the CPU (a tensor without dimensions) and an index of it are taken; everything else from
    two devices at once is a RuntimeError, and so is reading a tensor as an array. Values are those of the CPU.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = resolve_name(func) or getattr(func, "__name__", str(func))
        if name.endswith(("Tensor.device.__get__", "Tensor.is_cuda.__get__", "Tensor.is_cpu.__get__")):
            there = is_there(args[0])
            asked = name.rpartition("Tensor.")[2]
            return {"device": DEVICE if there else _CPU, "is_cuda": there, "is_cpu": not there}[asked.split(".")[0]]
        if name == "torch.Tensor.get_device":
            return DEVICE.index if is_there(args[0]) else -1
        if name == "torch.Tensor.numpy" and is_there(args[0]):
            raise RuntimeError("a tensor on a device is not an array")
        if name in ("torch.Tensor.to", "torch.Tensor.type_as") and len(args) > 1 and isinstance(args[1], torch.Tensor):
            func, name = torch.Tensor.to, "torch.Tensor.to"
            args = (args[0], DEVICE if is_there(args[1]) else _CPU, args[1].dtype)
        asked, args, kwargs = _asked_device(name, args, kwargs)
        found = func(*args, **kwargs)
        if name in _FREE or name.startswith("torch.nn.init"):
            return found
        there = self._target(name, args, kwargs) if asked is None else asked.type == DEVICE.type
        fresh = {id(tensor) for tensor in _tensors((args, kwargs))} if asked is not None else set()
        for tensor in _tensors(found):
            if id(tensor) in fresh and is_there(tensor) != there:
                # torch gave back the very tensor; between two devices it would be a copy.
                found = tensor = tensor.clone()
            if there:
                _THERE[tensor] = True
            elif asked is not None:
                _THERE.pop(tensor, None)
        return found

    def _target(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether what is computed of these arguments is on the device."""
        given = [args[0], *args[2:]] if name in _INDEXING else args
        tensors = list(_tensors((given, kwargs)))
        there = [is_there(tensor) for tensor in tensors]
        if name == "torch.Tensor.data.__set__" and there[1]:
            _THERE[args[0]] = True
        if name in _CROSSING:
            return there[0]
        if name in _INDEXING and not there[0] and any(map(is_there, _tensors(args[1]))):
            raise RuntimeError(f"{name}: an index on {DEVICE} into a tensor on {_CPU}")
        at_home = [tensor for tensor, one in zip(tensors, there, strict=True) if not one and tensor.dim()]
        if any(there) and at_home:
            shapes = [tuple(tensor.shape) for tensor in at_home]
            raise RuntimeError(f"{name}: tensors on {DEVICE} and, of shapes {shapes}, on {_CPU}")
        return any(there)


def _asked_device(
    name: str, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[torch.device | None, Sequence[Any], dict[str, Any]]:
    """The device that a call names, and its arguments without it."""
    if name == "torch.Tensor.cpu":
        return _CPU, args, kwargs
    if name == "torch.Tensor.cuda":
        return DEVICE, args[:1], {}
    found = kwargs.get("device")
    if found is not None:
        kwargs["device"] = _CPU
    elif name == "torch.Tensor.to" and len(args) > 1 and isinstance(args[1], str | torch.device):
        found, args = args[1], (args[0], _CPU, *args[2:])
    return (None if found is None else torch.device(found)), args, kwargs


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
