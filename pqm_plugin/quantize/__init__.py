"""4-bit NormalFloat weights: bitsandbytes does the arithmetic, this package owns the packed codes and scales."""

from pqm_plugin.quantize.checkpoint import load_packed, save_packed
from pqm_plugin.quantize.layers import packed_layers, quantize_layers
from pqm_plugin.quantize.packed import PackedTensor, WeightFormat

__all__ = ["PackedTensor", "WeightFormat", "load_packed", "packed_layers", "quantize_layers", "save_packed"]
