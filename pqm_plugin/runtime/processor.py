"""What the processor and the installation can do for the runtime."""

import functools
import importlib.util
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pqm_plugin.processes import n_cores

_X86 = ("x86_64", "AMD64", "i686")
_CPUINFO = Path("/proc/cpuinfo")


@functools.cache
def _flags() -> frozenset[str]:
    try:
        found = re.search(r"^flags\s*:(.*)$", _CPUINFO.read_text(encoding="utf-8"), flags=re.M)
    except OSError:
        return frozenset()
    return frozenset(found[1].split()) if found else frozenset()


def obstacle() -> str:
    """Why no model can be computed by ONNX Runtime here; empty if one can."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "onnxruntime is not installed"
    if platform.machine() in _X86 and _flags() and "avx2" not in _flags():
        return "this processor has no AVX2"
    return ""


def takes_signed_weights() -> bool:
    """Whether products of 8 bits are exact with signed weights; without VNNI, sums of two products overflow."""
    return platform.machine() not in _X86 or bool({"avx512_vnni", "avx_vnni"} & _flags())


def session(model: bytes, n_threads: int = 0) -> Any:
    """Give ONNX Runtime a model that was built here.

    Args:
        n_threads: 0 for as many as there are cores.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads or n_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    # Threads that wait for work spin for a while; other processes need the cores, too.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    found = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    # It keeps the bytes that it was made of, as many as its weights have, for providers that may fail.
    vars(found).pop("_model_bytes", None)
    return found


def values(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Arrays as ONNX Runtime has them, which are not copied again when a session is given them."""
    import onnxruntime

    return {
        name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()
    }
