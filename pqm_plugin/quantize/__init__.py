"""4-bit NormalFloat weights: bitsandbytes does the arithmetic, this package owns the packed codes and scales."""
