"""bitsandbytes' functions, imported without the compiler that it loads for others of them."""

from pqm_plugin.imports import quick_imports

with quick_imports():
    from bitsandbytes import functional as bnb
    from bitsandbytes import matmul_4bit

__all__ = ["bnb", "matmul_4bit"]
