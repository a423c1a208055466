"""Small valid files of every container and codec that is read, made in memory."""

import io

import av
import numpy as np
import soundfile

RATE = 16000
KNOWN = {
    **{
        "wav": ("WAV", "PCM_16"),
        "wav-adpcm": ("WAV", "MS_ADPCM"),
        "wav-float": ("WAV", "FLOAT"),
        "w64": ("W64", "PCM_16"),
    },
    **{"aiff": ("AIFF", "PCM_16"), "au": ("AU", "PCM_16"), "caf": ("CAF", "PCM_16")},
    **{"sph": ("NIST", "PCM_16"), "flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS")},
    **{"mp3": ("MP3", "MPEG_LAYER_III")},
}
"""Name -> format and subtype of libsndfile."""
FOREIGN = {
    **{"m4a": ("ipod", "aac"), "m4a-alac": ("ipod", "alac"), "mp4": ("mp4", "aac"), "3gp": ("3gp", "aac")},
    **{"aac": ("adts", "aac"), "webm": ("webm", "libopus"), "mka": ("matroska", "flac"), "mkv": ("matroska", "aac")},
    **{"wma": ("asf", "wmav2"), "avi": ("avi", "libmp3lame"), "flv": ("flv", "aac"), "ogg-flac": ("ogg", "flac")},
    **{"mov": ("mov", "alac"), "ts": ("mpegts", "aac")},
}
"""Name -> muxer and encoder of FFmpeg."""


def noise(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Float samples `(n_samples,)`."""
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))


def made(kind: str, samples: np.ndarray, rate: int = RATE) -> bytes:
    """The bytes of a file of `kind`, a name of `KNOWN` or `FOREIGN`."""
    file = io.BytesIO()
    if kind in KNOWN:
        soundfile.write(file, samples, rate, KNOWN[kind][1], format=KNOWN[kind][0])
        return file.getvalue()
    muxer, codec = FOREIGN[kind]
    rate = {"webm": 48000, "flv": 44100}.get(kind, rate)
    with av.open(file, "w", format=muxer) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 64000
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1).astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        for piece in av.AudioResampler(format=stream.format.name, layout="mono", rate=rate).resample(frame):
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return file.getvalue()


def shorten(samples: np.ndarray) -> bytes:
    """A SPHERE file packed by shorten of integers `(n_samples,)`, whole blocks of 256, as first numbers alone."""
    bits: list[int] = []

    def rice(value: int, n_low: int) -> None:
        bits.extend([0] * (value >> n_low) + [1] + [value >> place & 1 for place in reversed(range(n_low))])

    for value in (3, 1, 256, 0, 0, 0):  # 16-bit, one channel, blocks of 256
        n_low = max(0, value.bit_length() - 2)
        rice(n_low, 2)
        rice(value, n_low)
    for block in samples.reshape(-1, 256):
        rice(0, 2)
        rice(12, 3)
        for value in map(int, block):
            rice(value << 1 if value >= 0 else ~value << 1 | 1, 13)
    rice(4, 2)
    bits.extend([0] * (-len(bits) % 32))
    head = (
        f"NIST_1A\n   1024\nsample_count -i {len(samples)}\nsample_rate -i {RATE}\nchannel_count -i 1\n"
        "sample_n_bytes -i 2\nsample_byte_format -s2 01\nsample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n"
    )
    return head.encode().ljust(1024) + b"ajkg\x02" + np.packbits(bits).tobytes()
