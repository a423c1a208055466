"""Encoders with one CTC layer over characters, in Hugging Face's format: wav2vec 2.0 and models like it."""
