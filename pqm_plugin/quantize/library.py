"""bitsandbytes' functions, imported without the compiler that it loads for others of them."""

from pqm_plugin.imports import quick_imports

# It would fetch kernels of a hub with `kernels`, at a mere import.
with quick_imports(without=("kernels",)):
    from bitsandbytes import functional as bnb
    from bitsandbytes import matmul_4bit

__all__ = ["bnb", "matmul_4bit"]
