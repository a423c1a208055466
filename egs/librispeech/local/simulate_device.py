#!/usr/bin/env python3
"""Give each reader one simulated device and room, and write the corpus anew in its own layout.

A reader keeps the device in every utterance: the impulse response of a room (image source model), a band limit, noise
of a constant level and colour, and a gain. Readers differ; --seed and the reader's number decide. A set SET becomes
SET-device, so that its numbers say what they are of; its made.json has what was asked for and the devices. A set that
is there as it is asked for is left as it is; asked for otherwise, of another source, seed or range of noise, it is made
again.

To learn from, a reader may be heard through several devices: SET:4 becomes SET-device4, which has every utterance four
times, first as SET-device has it; the number of its chapter says by which of the others, 134315 becomes 3134315 by the
third. The reader stays one reader, so that who is left out of SAT is left out by every device.
"""

import argparse
import functools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
from derived_sets import DerivedSet, audio_of, copy_tables, identity
from numpy.typing import NDArray
from scipy.signal import butter, fftconvolve, sosfilt

from pqm_plugin.errors import PqmError
from pqm_plugin.processes import start_log

RATE = 16000
PEAK = 0.9
SUFFIX = "-device"


@dataclass(frozen=True)
class Device:
    """A reader's place: lengths in m, times in s, frequencies in Hz, levels in dB.

    `noise_slope_db` is how much the noise falls an octave; `snr_db` is speech over noise in the whole utterance.
    """

    room: tuple[float, float, float]
    rt60_s: float
    source: tuple[float, float, float]
    microphone: tuple[float, float, float]
    low_hz: float
    high_hz: float
    snr_db: float
    noise_slope_db: float
    gain_db: float


def draw(reader: str, seed: int, snr_db: tuple[float, float], number: int = 0) -> Device:
    """The device of a reader, or another `number` of hers, from the seed and these numbers alone."""
    rng = np.random.default_rng([seed, int(reader), *([number] if number else [])])
    room = (rng.uniform(3, 7), rng.uniform(2.5, 5), rng.uniform(2.4, 3.2))
    places = [tuple(float(rng.uniform(0.5, side - 0.5)) for side in room) for _ in range(2)]
    return Device(
        room=tuple(float(side) for side in room),
        rt60_s=float(rng.uniform(0.25, 0.6)),
        source=places[0],
        microphone=places[1],
        low_hz=float(rng.uniform(60, 300)),
        high_hz=float(rng.uniform(2800, 6500)),
        snr_db=float(rng.uniform(*snr_db)),
        noise_slope_db=float(rng.uniform(0, 6)),
        gain_db=float(rng.uniform(-12, 0)),
    )


@functools.cache
def impulse_response(device: Device) -> NDArray[np.float64]:
    """From mouth to microphone, float64 (n_taps,), of unit energy, starting with the direct sound."""
    try:
        import pyroomacoustics
    except ImportError as error:
        raise PqmError("rooms need pyroomacoustics: pip install 'pqm_plugin[study]'") from error
    absorption, order = pyroomacoustics.inverse_sabine(device.rt60_s, device.room)
    room = pyroomacoustics.ShoeBox(
        device.room, fs=RATE, materials=pyroomacoustics.Material(absorption), max_order=min(order, 40)
    )
    room.add_source(device.source)
    room.add_microphone(device.microphone)
    room.compute_rir()
    taps: NDArray[np.float64] = np.asarray(room.rir[0][0], dtype=np.float64)
    taps = taps[int(np.argmax(np.abs(taps) > 0.1 * np.abs(taps).max())) :]
    return taps / np.sqrt(np.sum(taps**2))


def through(
    samples: NDArray[np.float64], device: Device, taps: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """An utterance as the device records it: as many samples, in [-0.9, 0.9]."""
    heard = fftconvolve(samples, taps)[: len(samples)]
    noise = _noise(len(samples), device.noise_slope_db, rng)
    noise *= np.sqrt(np.mean(heard**2) / np.mean(noise**2)) * 10 ** (-device.snr_db / 20)
    band = butter(4, (device.low_hz, device.high_hz), "bandpass", fs=RATE, output="sos")
    mixed = sosfilt(band, heard + noise) * 10 ** (device.gain_db / 20)
    return np.asarray(mixed * min(1.0, PEAK / np.abs(mixed).max(initial=1e-9)))


def _noise(n: int, slope_db: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Gaussian noise whose level falls by `slope_db` an octave."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    hertz = np.maximum(np.fft.rfftfreq(n, 1 / RATE), 50)
    return np.fft.irfft(spectrum * (hertz / 50) ** (-slope_db / 6.02), n)


def simulate(
    corpus: Path, set_name: str, out: Path, seed: int, snr_db: tuple[float, float], n_devices: int = 1
) -> None:
    """Write the set whole into `out`, with a record of the devices of its readers.

    Raises:
        PqmError: if the corpus has no such set, or its audio is not 16 kHz.
    """
    source, files = corpus / set_name, audio_of(corpus, set_name)
    readers = sorted({path.parts[-3] for path in files})
    devices = {reader: [draw(reader, seed, snr_db, number) for number in range(n_devices)] for reader in readers}

    def sounds() -> Iterator[tuple[Path, NDArray[np.float64], int]]:
        for path in files:
            yield from _heard(path, path.relative_to(source), devices[path.parts[-3]], seed)

    def texts() -> Iterator[tuple[Path, str]]:
        for path in source.rglob("*.trans.txt"):
            for number in range(n_devices):
                place = _renumbered(path.relative_to(source), number)
                yield place, _named(path.read_text(encoding="utf-8-sig"), path, place)

    request = {"seed": seed, "snr_db": list(snr_db), "n_devices": n_devices, "source": identity(source)}
    made = {reader: [asdict(device) for device in found] for reader, found in devices.items()}
    target = out / f"{set_name}{SUFFIX}{n_devices if n_devices > 1 else ''}"
    DerivedSet(target, {"request": request, "readers": made}, len(files) * n_devices, sounds, texts).make()


def _heard(
    path: Path, place: Path, devices: Sequence[Device], seed: int
) -> Iterator[tuple[Path, NDArray[np.float64], int]]:
    """An utterance through each device: its place in the set, its samples and their rate."""
    samples, rate = soundfile.read(path)
    if rate != RATE or samples.ndim != 1:
        raise PqmError(f"{path}: {rate} Hz, {samples.ndim} dimensions; expected mono audio of {RATE} Hz")
    for number, device in enumerate(devices):
        renumbered = _renumbered(place, number)
        rng = np.random.default_rng([seed, *(int(part) for part in renumbered.stem.split("-"))])
        yield renumbered, through(samples, device, impulse_response(device), rng), RATE


def _renumbered(path: Path, number: int) -> Path:
    """READER/CHAPTER/READER-CHAPTER… by another device: the chapter has six digits and the device's number before."""
    if not number:
        return path
    reader, chapter, name = path.parts
    renumbered = f"{number}{int(chapter):06d}"
    return Path(reader, renumbered, name.replace(f"{reader}-{chapter}", f"{reader}-{renumbered}", 1))


def _named(text: str, path: Path, place: Path) -> str:
    """Transcripts of the file `path` with the names that utterances have at `place`."""
    old, new = (one.name.partition(".")[0] for one in (path, place))
    return "".join(line.replace(old, new, 1) for line in text.splitlines(keepends=True))


def main() -> int:
    """Simulate the sets that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="the LibriSpeech folder, which holds the sets")
    parser.add_argument(
        "--sets", nargs="+", required=True, metavar="SET[:N]", help="sets to simulate, through N devices a reader"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the sets as the devices record them")
    parser.add_argument("--seed", type=int, default=0, help="decides the devices (default 0)")
    parser.add_argument(
        "--snr_db", type=float, nargs=2, default=(8.0, 20.0), metavar="DB", help="range of the noise (default 8 20)"
    )
    parsed = parser.parse_args()
    start_log()
    try:
        for wanted in parsed.sets:
            set_name, n_devices = _wanted(wanted)
            simulate(parsed.corpus, set_name, parsed.out, parsed.seed, tuple(parsed.snr_db), n_devices)
        copy_tables(parsed.corpus, parsed.out)
    except PqmError as error:
        print(f"simulate_device: {error}", file=sys.stderr)
        return 1
    return 0


def _wanted(text: str) -> tuple[str, int]:
    """`SET:N` as the set and how many devices."""
    set_name, colon, number = text.partition(":")
    if colon and not (number.isdecimal() and int(number) > 0):
        raise PqmError(f"--sets {text}: after the colon comes the number of devices, such as {set_name}:4")
    return set_name, int(number) if colon else 1


if __name__ == "__main__":
    sys.exit(main())
