"""The command `pqm`: make, use and hand on a personal model."""
