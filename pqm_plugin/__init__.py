"""Personalised quantised speech recognisers: 4-bit NF4 models that know their speaker (PQM, arXiv 2309.09136)."""

__version__ = "0.1.0"
