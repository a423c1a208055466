"""A local web page: transcribe with and without an adapter, and enrol by reading a few sentences."""
