"""Corpora: readers of their layouts, Kaldi data folders, audio, partitions and text."""
