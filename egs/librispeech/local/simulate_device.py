#!/usr/bin/env python3
"""Give each reader one simulated device and room, and write the corpus anew in its own layout.

A reader keeps the device in every utterance: the impulse response of a room (image source model), a band limit, noise
of a constant level and colour, and a gain. Readers differ; --seed and the reader's number decide. A set SET becomes
SET-device, so that its numbers say what they are of. What was made is in OUT/devices.json. A run that was cut off goes
on: sets that are whole are left as they are.
"""

import argparse
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import butter, fftconvolve, sosfilt
from tqdm import tqdm

from pqm_plugin.errors import PqmError
from pqm_plugin.files import whole_folder, write_json
from pqm_plugin.processes import start_log

RATE = 16000
PEAK = 0.9
SUFFIX = "-device"
_TABLES = ("SPEAKERS.TXT", "CHAPTERS.TXT", "LICENSE.TXT", "README.TXT")


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


def draw(reader: str, seed: int, snr_db: tuple[float, float]) -> Device:
    """The device of a reader, from the seed and the reader's number alone."""
    rng = np.random.default_rng([seed, int(reader)])
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


def simulate(corpus: Path, set_name: str, out: Path, seed: int, snr_db: tuple[float, float]) -> dict[str, Device]:
    """Write the set whole into `out` and return the devices of its readers.

    Raises:
        PqmError: if the corpus has no such set, or its audio is not 16 kHz.
    """
    source = corpus / set_name
    files = sorted(source.rglob("*.flac"))
    if not files:
        raise PqmError(f"{source} holds no .flac: give the LibriSpeech folder with --corpus, and its sets with --sets")
    devices = {reader: draw(reader, seed, snr_db) for reader in sorted({path.parts[-3] for path in files})}
    if (out / f"{set_name}{SUFFIX}").is_dir():
        return devices
    responses = {reader: impulse_response(device) for reader, device in devices.items()}
    with whole_folder(out / f"{set_name}{SUFFIX}") as scratch:
        for path in tqdm(files, desc=set_name, unit="utterance"):
            samples, rate = soundfile.read(path)
            if rate != RATE or samples.ndim != 1:
                raise PqmError(f"{path}: {rate} Hz, {samples.ndim} dimensions; expected mono audio of {RATE} Hz")
            reader = path.parts[-3]
            rng = np.random.default_rng([seed, *(int(part) for part in path.stem.split("-"))])
            target = scratch / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(target, through(samples, devices[reader], responses[reader], rng), RATE, "PCM_16")
        for path in source.rglob("*.trans.txt"):
            shutil.copyfile(path, scratch / path.relative_to(source))
    return devices


def main() -> int:
    """Simulate the sets that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="the LibriSpeech folder, which holds the sets")
    parser.add_argument("--sets", nargs="+", required=True, help="sets to simulate")
    parser.add_argument("--out", type=Path, required=True, help="folder for the sets as the devices record them")
    parser.add_argument("--seed", type=int, default=0, help="decides the devices (default 0)")
    parser.add_argument(
        "--snr_db", type=float, nargs=2, default=(8.0, 20.0), metavar="DB", help="range of the noise (default 8 20)"
    )
    parsed = parser.parse_args()
    start_log()
    try:
        devices: dict[str, Device] = {}
        for set_name in parsed.sets:
            devices |= simulate(parsed.corpus, set_name, parsed.out, parsed.seed, tuple(parsed.snr_db))
        for name in _TABLES:
            if (parsed.corpus / name).is_file():
                shutil.copyfile(parsed.corpus / name, parsed.out / name)
        request: dict[str, Any] = {"seed": parsed.seed, "snr_db": list(parsed.snr_db)}
        write_json(
            parsed.out / "devices.json", request | {"readers": {name: asdict(one) for name, one in devices.items()}}
        )
    except PqmError as error:
        print(f"simulate_device: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
