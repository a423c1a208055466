"""bitsandbytes' functions, imported without the compiler that it loads for others of them."""

from pqm_plugin.imports import quick_imports

with quick_imports():
    from bitsandbytes import functional as bnb

__all__ = ["bnb"]
