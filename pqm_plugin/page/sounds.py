"""Audio that came through the browser: measured before it is decoded, and named as its owner named it."""

from pathlib import Path

from pqm_plugin.corpus.audio import Samples, probe
from pqm_plugin.corpus.recording import FOREIGN, Warn, load_sound
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError

# Decoded samples of a minute may take no more memory than this rate would in stereo, whatever a small file promises.
_RICHEST_HZ = 2 * 96_000


def load_within(path: Path, sample_rate: int, longest_s: float, warn: Warn | None = None) -> Samples:
    """Return samples `(n_samples,)`, float32 in [-1, 1], at `sample_rate` in Hz, of a file of at most `longest_s`.

    `warn` is told what is odd about its channels.

    Raises:
        PqmError: if it is longer, or cannot be read; it names the file without its folder, which is the page's own.
    """
    try:
        if path.suffix.lower() not in FOREIGN:
            found = probe(Utterance("", "", "", str(path)))
            if found.duration_s > longest_s:
                raise PqmError(f"{path.name} lasts {found.duration_s:.0f} s, the most is {longest_s:g} s: cut it")
            if found.n_samples * found.n_channels > longest_s * _RICHEST_HZ:
                raise PqmError(f"{path.name} has {found.n_channels} channels at {found.sample_rate} Hz: mix it to mono")
        return load_sound(path, sample_rate, warn=_unplaced(path, warn) if warn else None)
    except PqmError as error:
        raise PqmError(str(error).replace(str(path), path.name)) from error


def _unplaced(path: Path, warn: Warn) -> Warn:
    """Say it without the page's folder, and with what can be done on a page."""

    def saying(words: str) -> None:
        warn(words.replace(str(path), path.name).rpartition(": ")[0] + ": bring each channel as a file of its own")

    return saying
