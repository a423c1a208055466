"""A personal model: one packed base, an adapter for each speaker, and how both are used and handed on."""
