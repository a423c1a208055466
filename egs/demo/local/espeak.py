"""Speech from espeak-ng, through the shared library that the package espeakng-loader carries.

Run as a program it reads a voice and sentences from its input and writes samples to its output; `synthesize` does so.
The library keeps state from one utterance to the next (the phase of its oscillators), so each utterance is spoken by a
forked child: the same voice and sentence give the same bytes in whatever order they are asked for.
"""

import contextlib
import ctypes
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pqm_plugin.errors import PqmError

SAMPLE_RATE = 22050  # of the library, in Hz
_SYNCHRONOUS, _DO_NOT_EXIT, _UTF8 = 2, 0x8000, 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_ON_SAMPLES = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Voice:
    """How one synthetic speaker speaks."""

    accent: str  # a file name under espeak-ng-data/lang/gmw
    variant: str  # a file name under espeak-ng-data/voices/!v
    pitch: int  # 0 to 99, 50 is the variant's own
    rate: int  # words a minute, 80 to 450
    pitch_range: int  # 0 is a monotone, 50 is usual, up to 99


def synthesize(voice: Voice, sentences: Sequence[str]) -> Iterator[bytes]:
    """Speak sentences, one after another: 16-bit samples at `SAMPLE_RATE`.

    Raises:
        PqmError: if espeakng-loader is missing, knows no such voice, or fails.
    """
    request = json.dumps({"voice": asdict(voice), "sentences": list(sentences)}).encode()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    answer = subprocess.run(
        [sys.executable, __file__], input=request, capture_output=True, env=environment, check=False
    )
    if answer.returncode != 0:
        said = answer.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {answer.returncode}"]
        raise PqmError(f"espeak-ng could not speak as {voice}: {said[-1]}")
    position = 0
    for _ in sentences:
        (size_bytes,) = struct.unpack_from("<I", answer.stdout, position)
        position += 4 + size_bytes
        yield answer.stdout[position - size_bytes : position]


def _load_library(data: Path) -> Any:
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    library.espeak_Synth.argtypes = [ctypes.c_char_p, ctypes.c_size_t] + [ctypes.c_uint] * 4 + [ctypes.c_void_p] * 2
    if library.espeak_Initialize(_SYNCHRONOUS, 0, str(data).encode(), _DO_NOT_EXIT) != SAMPLE_RATE:
        sys.exit(f"{espeakng_loader.get_data_path()} is not what the library expects: install espeakng-loader again")
    return library


@contextlib.contextmanager
def _voice_data() -> Iterator[Path]:
    """The library's data under a short name: it cuts a path off after 159 characters."""
    try:
        import espeakng_loader
    except ImportError:
        sys.exit("it needs the package espeakng-loader: pip install 'pqm_plugin[demo]'")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "espeak-ng-data"
        data.symlink_to(espeakng_loader.get_data_path())
        yield data


def _choose_voice(library: Any, data: Path, voice: Voice) -> None:
    # The library takes the plain accent without a word when it does not know the variant.
    if not (data / "voices" / "!v" / voice.variant).is_file():
        sys.exit(f"espeakng-loader has no variant {voice.variant!r}")
    if library.espeak_SetVoiceByName(f"{voice.accent}+{voice.variant}".encode()) != 0:
        sys.exit(f"espeakng-loader has no accent {voice.accent!r}")
    for parameter, value in ((_RATE, voice.rate), (_PITCH, voice.pitch), (_RANGE, voice.pitch_range)):
        library.espeak_SetParameter(parameter, value, 0)


def _speak(library: Any, sentence: str) -> bytes:
    pieces: list[bytes] = []

    def on_samples(samples: int | None, n_samples: int, _events: int | None) -> int:
        if samples and n_samples > 0:
            pieces.append(ctypes.string_at(samples, 2 * n_samples))
        return 0

    callback = _ON_SAMPLES(on_samples)
    library.espeak_SetSynthCallback(callback)
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # breath and roughness draw from it
    text = sentence.encode()
    library.espeak_Synth(text, len(text) + 1, 0, 0, 0, _UTF8, None, None)
    return b"".join(pieces)


def _speak_in_child(library: Any, sentence: str, output: BinaryIO) -> None:
    output.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            samples = _speak(library, sentence)
            output.write(struct.pack("<I", len(samples)) + samples)
            output.flush()
            status = 0 if samples else 1
        finally:
            os._exit(status)  # past the parent's own clean-up
    _, status = os.waitpid(child, 0)
    if status != 0:
        sys.exit(f"no sound for {sentence!r}")


def _main() -> None:
    request = json.load(sys.stdin)
    voice = Voice(**request["voice"])
    with _voice_data() as data:
        library = _load_library(data)
        _choose_voice(library, data, voice)
        for sentence in request["sentences"]:
            _speak_in_child(library, sentence, sys.stdout.buffer)


if __name__ == "__main__":
    _main()
