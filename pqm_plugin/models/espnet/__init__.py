"""Hybrid CTC/attention models of ESPnet: the only folder that knows ESPnet."""
