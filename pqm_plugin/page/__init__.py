"""A local page in the browser: transcribe with and without one's adapter, read a few sentences, be enrolled."""
