"""Networks whose weights are about to be loaded: built without drawing random ones."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch.overrides import TorchFunctionMode

# By name: some are functions of torch.nn.init, some methods of tensors, and transformers has its own in their place.
_RANDOM = frozenset({"uniform_", "normal_", "trunc_normal_", "kaiming_uniform_"})


class WithoutInitialisation(TorchFunctionMode):
    """Within it no tensor is filled with random numbers, so that memory which a packed weight replaces is not touched.

    Parameters then hold whatever their memory held: every one must be loaded.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Give the tensor back as it is where `func` would fill it with random numbers."""
        if getattr(func, "__name__", "") in _RANDOM:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
