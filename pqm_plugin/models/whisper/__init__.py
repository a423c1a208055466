"""Whisper in the format of Hugging Face."""
