#!/usr/bin/env bash
# libsndfile, as soundfile ships it, opens two kinds of ordinary compressed recordings and gives a part of their sound,
# without an error and with `frames` to match:
#   1. Ogg Vorbis or Opus streams that follow one another in one file ("chained" in RFC 3533): only the first is heard.
#   2. An MP3 of varying bit rate whose encoder wrote no Xing header: its length is guessed from the first frames.
# FFmpeg (PyAV) reads the MP3 to its end. Whoever measures lengths with soundfile loses speech and does not see it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "${work}"' EXIT
python3 -m venv "${work}/venv"
"${work}/venv/bin/pip" install --quiet --disable-pip-version-check 'soundfile==0.14.0' 'av==19.0.2' 'numpy==2.4.1'
cat > "${work}/show.py" << 'PY'
import io, sys
import av, numpy as np, soundfile

rate = 16000
print(f"soundfile {soundfile.__version__}, {soundfile.__libsndfile_version__}, PyAV {av.__version__}")


def noise(seconds, seed):
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * rate))).astype("float32")


def ogg(samples, subtype):
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="OGG", subtype=subtype)
    return out.getvalue()


lost = []
for subtype in ("VORBIS", "OPUS"):
    data = ogg(noise(2, 0), subtype) + ogg(noise(3, 1), subtype)
    heard = soundfile.info(io.BytesIO(data)).frames
    print(f"Ogg {subtype}: two streams of 2 and 3 s in one file, soundfile gives {heard / rate:.1f} s")
    lost.append(abs(heard / rate - 2) < 0.1)

# A second that is nearly silent, then noise: frames of few bits, then of many. libsndfile writes varying bit rate and
# a first frame that only holds the Xing header, which encoders may leave out: it is taken off here.
samples = noise(20, 2)
samples[:rate] *= 0.001
out = io.BytesIO()
soundfile.write(out, samples, rate, format="MP3")
data = out.getvalue()
first = data.find(data[:2], 4)
assert b"Xing" in data[:first]
path = sys.argv[1]
with open(path, "wb") as file:
    file.write(data[first:])
with av.open(path) as source:
    decoded = sum(frame.samples for frame in source.decode(audio=0))
guessed = len(soundfile.read(path)[0])
print(f"MP3 of varying bit rate without Xing header: {len(samples)} samples went in, PyAV gives {decoded}, soundfile {guessed}")
lost.append(decoded >= len(samples) and guessed < 0.95 * decoded)
print("as found:", lost)
sys.exit(0 if all(lost) else 1)
PY
"${work}/venv/bin/python" "${work}/show.py" "${work}/a.mp3"
