#!/usr/bin/env bash
# The normaliser that Whisper's authors give for languages other than English takes every combining mark for a symbol. In
# Hindi, and other scripts whose vowels are such marks, it deletes the vowels and cuts words in pieces: two different
# words become equal, and one word counts as several, so that word error rates of it mean little. whisper-normalizer has
# an option that keeps marks, which is off by default.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "${work}"' EXIT
python3 -m venv "${work}/venv"
"${work}/venv/bin/pip" install --quiet --disable-pip-version-check 'whisper-normalizer==0.1.15' 'jiwer==4.0.0'
"${work}/venv/bin/python" << 'PY'
import importlib.metadata, sys
import jiwer
from whisper_normalizer.basic import BasicTextNormalizer

print("whisper-normalizer", importlib.metadata.version("whisper-normalizer"), "jiwer", importlib.metadata.version("jiwer"))
plain, keeping = BasicTextNormalizer(), BasicTextNormalizer(preserve_marks=True)
said, other = "दिन", "दीन"  # "day" and "poor"
greeting = "नमस्ते दुनिया"
print(f"{greeting!r}: default {plain(greeting)!r}, marks kept {keeping(greeting)!r}")
before, after = jiwer.wer(said, other), jiwer.wer(plain(said), plain(other))
print(f"{said!r} recognised as {other!r}: WER {before:.0%} as written, {after:.0%} normalised by default")
as_found = len(plain(greeting).split()) > 2 and before == 1 and after == 0 and keeping(greeting) == greeting
print("as found:", as_found)
sys.exit(0 if as_found else 1)
PY
