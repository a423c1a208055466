"""What the header of an audio file promises, and where joined recordings begin."""

import io
import mmap
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

# Recorders that write to a pipe cannot know the length and put a number near 2 or 4 GiB there.
_UNKNOWN_SIZE = 0x7FFF0000
# No Ogg page is longer: the last one begins within this many bytes of the end.
_OGG_PAGE = 27 + 255 + 255 * 255


# Sounds below a tenth of a second hold no word; a header that counts itself, or a padding, is off by less.
_HARMLESS_S = 0.1
UNKNOWN_END = "does not say where its samples end: it is read to the end of the file"
"""The remark about a length that was not known when the file was begun."""

_BEHIND = (
    "has {} bytes behind the samples that its header counts, and they are not read: where they are sound, "
    "`sox --ignore-length` writes the file anew"
)
_UNMARKED = "has no mark of its end: what is there is read, but more may have been lost"


@dataclass(frozen=True)
class Ending:
    """How a file ends: how many bytes at least it lacks, and whether that is more than can be overlooked.

    `remark` says what is odd about a file that can be read; `patch` is what a decoder has to find at a place of it,
    instead of what is there; `n_packed` how many samples a SPHERE file holds that is packed by shorten.
    """

    missing: int = 0
    is_lost: bool = False
    remark: str = ""
    patch: tuple[int, bytes] | None = None
    n_packed: int = 0


def ending(file: BinaryIO) -> Ending:
    """Compare the length that a file of one of these formats promises with what is there, from where it stands."""
    start = file.tell()
    length = file.seek(0, os.SEEK_END) - start
    file.seek(start)
    head = file.read(12)
    if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
        found = _of_chunks(file, b"data", "little", length)
    elif head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        found = _of_chunks(file, b"SSND", "big", length)
    elif head[:7] == b"NIST_1A":
        found = _of_sphere(head + file.read(1024), length)
    elif head[:4] == b".snd":
        found = _of_au(head + file.read(12), length)
    elif head[:4] == b"riff":
        size = int.from_bytes((head + file.read(12))[16:24], "little")
        file.seek(start + 40)
        chunk = file.read(40)
        bytes_per_s = float(int.from_bytes(chunk[32:36], "little")) if chunk[:4] == b"fmt " else 0.0
        found = _judged(size - length, bytes_per_s)
    elif head[:4] == b"OggS":
        file.seek(start + max(0, length - _OGG_PAGE))
        found = _of_ogg(file.read(_OGG_PAGE))
    else:
        found = Ending()
    file.seek(start)
    return found


def _judged(missing: int, bytes_per_s: float) -> Ending:
    if missing <= 0:
        return Ending()
    if missing > _HARMLESS_S * bytes_per_s:
        return Ending(missing, is_lost=True)
    return Ending(missing, remark=f"promises {missing} bytes more than it has: what is there is read")


def _of_chunks(file: BinaryIO, wanted: bytes, byteorder: Literal["little", "big"], length: int) -> Ending:
    """Walk the chunks of a WAV or AIFF file to its samples."""
    offset, bytes_per_s, long = 12, 0.0, (0, 0)
    while offset + 8 <= length:
        name, size = file.read(4), int.from_bytes(file.read(4), byteorder)
        offset += 8
        if name == wanted:
            return _of_samples(file, size, offset, length, bytes_per_s, byteorder, long)
        inside = file.read(min(size, 18)) if name in (b"fmt ", b"COMM", b"ds64") else b""
        if name == b"ds64" and len(inside) >= 16:
            long = int.from_bytes(inside[8:16], "little"), offset + 8
            file.seek(size + size % 2 - len(inside), os.SEEK_CUR)
            offset += size + size % 2
            continue
        if name == b"fmt " and len(inside) >= 12:
            bytes_per_s = float(int.from_bytes(inside[8:12], "little"))
        elif len(inside) == 18:
            # The rate is an 80-bit float, and below 2 ** 31.
            rate = int.from_bytes(inside[10:14], "big") >> max(0, 16414 - int.from_bytes(inside[8:10], "big"))
            bytes_per_s = rate * int.from_bytes(inside[:2], "big") * -(-int.from_bytes(inside[6:8], "big") // 8)
        file.seek(size + size % 2 - len(inside), os.SEEK_CUR)
        offset += size + size % 2
    return Ending()


def _of_samples(
    file: BinaryIO,
    size: int,
    offset: int,
    length: int,
    bytes_per_s: float,
    byteorder: Literal["little", "big"],
    long: tuple[int, int],
) -> Ending:
    """Judge the size of the samples; `long` is that of an RF64 file, with 64 bits, and where it stands, or zeros."""
    there = length - offset
    place, n_bytes = offset - 4, 4
    if size == 0xFFFFFFFF and long[1]:
        size, place, n_bytes = long[0], long[1], 8
    elif size >= _UNKNOWN_SIZE:
        return Ending(remark=UNKNOWN_END)
    if 0 < size < there - _HARMLESS_S * bytes_per_s:
        file.seek(size + size % 2, os.SEEK_CUR)
        left = there - size - size % 2
        return Ending() if _are_chunks(file, left, byteorder) else Ending(remark=_BEHIND.format(left))
    if size or there <= 0 or _are_chunks(file, there, byteorder):
        return _judged(size - there, bytes_per_s)
    said = "says that it holds 0 bytes of samples: it is read to the end of the file"
    shown = there if n_bytes == 8 else min(there, _UNKNOWN_SIZE)
    return Ending(remark=said, patch=(place, shown.to_bytes(n_bytes, byteorder)))


def _are_chunks(file: BinaryIO, left: int, byteorder: Literal["little", "big"]) -> bool:
    """Say whether what follows are further chunks, each with a name and its size, to the end of the file."""
    while left >= 8:
        name, size = file.read(4), int.from_bytes(file.read(4), byteorder)
        size += size % 2
        if not re.fullmatch(rb"[A-Za-z0-9_ ]{4}", name) or size > left - 8 + 1:
            return False
        file.seek(size, os.SEEK_CUR)
        left -= 8 + size
    return True


def _of_au(head: bytes, length: int) -> Ending:
    offset, size, coding, rate, n_channels = (int.from_bytes(head[at : at + 4], "big") for at in range(4, 24, 4))
    n_bytes = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}.get(coding, 0)
    return Ending() if size >= _UNKNOWN_SIZE else _judged(offset + size - length, rate * n_channels * n_bytes)


def _of_sphere(head: bytes, length: int) -> Ending:
    """Count the samples that a SPHERE header promises, where they are not packed."""
    fields = dict(re.findall(rb"^(\w+) -(?:i|r|s\d+) (\S+)", head, flags=re.MULTILINE))
    header_size = re.match(rb"NIST_1A\s+(\d+)", head)
    coding = fields.get(b"sample_coding", b"pcm")
    try:
        if b"shorten" in coding:
            return Ending(n_packed=int(fields.get(b"sample_count", b"1")))
        if header_size is None or b"sample_count" not in fields or coding not in (b"pcm", b"ulaw", b"alaw"):
            return Ending()
        n_bytes = int(fields.get(b"sample_n_bytes", b"2")) * int(fields.get(b"channel_count", b"1"))
        end = int(header_size.group(1)) + int(fields[b"sample_count"]) * n_bytes
        return _judged(end - length, n_bytes * float(fields.get(b"sample_rate", b"0")))
    except ValueError:
        # A damaged field promises nothing; the decoder has its own word on it.
        return Ending()


def _of_ogg(tail: bytes) -> Ending:
    """Look at the last page: it lacks bytes, it does not end its stream, or all is well."""
    page = tail[max(0, tail.rfind(b"OggS")) :]
    segments = page[27 : 27 + page[26]] if len(page) > 26 else b""
    if len(page) < 27 or len(segments) < page[26]:
        return Ending(1, is_lost=True)
    missing = 27 + len(segments) + sum(segments) - len(page)
    if missing > 0:
        return Ending(missing, is_lost=True)
    return Ending() if page[5] & 4 else Ending(1, remark=_UNMARKED)


# So many MPEG frames in a row are sound; one alone may be a counting error of the encoder, or chance.
_SURE_FRAMES = 4
_KBIT_S = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_ID3V1_BYTES = 128


class Window(io.RawIOBase):
    """The bytes `start` to `stop` of a file as a file of its own; `patch` stands for what the file has there."""

    def __init__(self, raw: BinaryIO, start: int, stop: int, patch: tuple[int, bytes] | None = None) -> None:
        """Look at `raw`; the patch's place counts from `start`."""
        self._raw, self._start, self._size, self._patch = raw, start, stop - start, patch
        self._at = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte of the window."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """The byte that is read next."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as the window goes."""
        if self._at >= self._size:  # anywhere at all, in a damaged file
            return 0
        self._raw.seek(self._start + self._at)
        data = bytearray(self._raw.read(min(len(buffer), self._size - self._at)))
        if self._patch is not None:
            place, bytes_ = self._patch[0] - self._at, self._patch[1]
            for n, byte in enumerate(bytes_, start=place):
                if 0 <= n < len(data):
                    data[n] = byte
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


@dataclass(frozen=True)
class _Kind:
    """How a file of one kind begins: what to look for, how far that is from the beginning, and what proves it."""

    needles: tuple[bytes, ...]
    proof: re.Pattern[bytes]
    offset: int = 0


def _kind(needles: tuple[bytes, ...], proof: bytes, offset: int = 0) -> _Kind:
    return _Kind(needles, re.compile(proof, re.DOTALL), offset)


_OGG = _kind((b"OggS\0\x02", b"OggS\0\x06"), rb"OggS\0[\x02\x06]\0{8}.{4}\0{4}")
_KINDS = (
    _OGG,
    _kind((b"fLaC\0\0\0\x22", b"fLaC\x80\0\0\x22"), rb"fLaC[\0\x80]\0\0\x22"),
    _kind((b"RIFF",), rb"RIFF.{4}WAVE(?:fmt |JUNK|bext|LIST|PEAK|fact)"),
    _kind((b"RIFF",), rb"RIFF.{4}AVI LIST"),
    _kind((b"FORM",), rb"FORM.{4}AIF[FC](?:COMM|FVER|COMT|MARK|INST|NAME|AUTH|ANNO|\(c\) |CHAN)"),
    _kind((b"NIST_1A\n",), rb"NIST_1A\n *\d+\n"),
    _kind((b"caff\0\x01",), rb"caff\0\x01\0\0desc"),
    _kind((b"riff\x2e\x91\xcf\x11",), rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0"),
    _kind((b".snd\0\0",), rb"\.snd\0\0[\0-\x10].{5}\0{3}[\x01-\x1f]\0.{3}\0{3}[\x01-\x40]"),
    _kind((b"ftyp",), rb"\0\0\0.ftyp[ -~]{4}", offset=4),
    _kind((b"\x1aE\xdf\xa3",), rb"\x1aE\xdf\xa3.{1,60}?(?:webm|matroska)"),
    _kind((b"0&\xb2u\x8ef\xcf\x11",), rb"0&\xb2u\x8ef\xcf\x11\xa6\xd9\0\xaa\0b\xcel"),
    _kind((b"FLV\x01",), rb"FLV\x01[\x01\x04\x05]\0\0\0\x09"),
    _kind((b"#!AMR",), rb"#!AMR(?:-WB)?\n"),
)
_MPEG = re.compile(rb"ID3|\xff[\xe2-\xe7\xf2-\xf7\xfa\xfb]", re.DOTALL)


def part_starts(file: BinaryIO) -> list[int]:
    """The offsets at which recordings begin in an open file; `[0]` for one that is not joined, or not known."""
    with _bytes_of(file) as data:
        head = bytes(data[:128])
        for kind in _KINDS:
            if kind.proof.match(head):
                starts = _starts_of(data, kind)
                return _without_multiplexed(data, starts) if kind is _OGG else starts
        return _mpeg_starts(data) if _MPEG.match(head) else [0]


def _bytes_of(file: BinaryIO) -> Any:
    """The file as something with `find` and slices, closed after use; not read where it can be mapped."""
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError, AttributeError):
        here = file.tell()
        file.seek(0)
        made = mmap.mmap(-1, max(1, file.seek(0, os.SEEK_END)))
        file.seek(0)
        made.write(file.read())
        file.seek(here)
        return made


def _starts_of(data: Any, kind: _Kind) -> list[int]:
    found = {0}
    for needle in kind.needles:
        for place in _places(data, needle):
            start = place - kind.offset
            if start > 0 and kind.proof.match(bytes(data[start : start + 128])):
                found.add(start)
    return sorted(found)


def _places(data: Any, needle: bytes) -> Iterator[int]:
    place = data.find(needle, 0)
    while place >= 0:
        yield place
        place = data.find(needle, place + 1)


def _without_multiplexed(data: Any, starts: list[int]) -> list[int]:
    """Ogg streams that run side by side begin with one page each, one behind the other: that is one recording."""
    kept = starts[:1]
    for last, start in zip(starts, starts[1:], strict=False):
        n_segments = data[last + 26]
        if start != last + 27 + n_segments + sum(data[last + 27 : last + 27 + n_segments]):
            kept.append(start)
    return kept


def _mpeg_starts(data: Any) -> list[int]:
    """Of MP3: each frame that tells how long its stream is begins one, and what follows that stream's end."""
    infos = sorted(
        (start, length)
        for name in (b"Xing\0\0\0", b"Info\0\0\0", b"VBRI")
        for place in _places(data, name)
        for start, length in _info_frame(data, place)
    )
    first = _behind_tag(data, 0)
    if not infos or infos[0][0] > first + 4096:
        infos.insert(0, (first, 0))
    starts = []
    ends = [*(start for start, _ in infos[1:]), len(data)]
    for (start, length), end in zip(infos, ends, strict=True):
        starts.append(start)
        if length:
            more = _next_sound(data, start + length, end)
            if more is None:
                continue
            starts.append(more)
        starts += _changes(data, starts[-1], end)
    return [0, *starts[1:]]


def _changes(data: Any, place: int, end: int) -> Iterator[int]:
    """Where the rate changes, or one channel becomes two: no encoder does that, so another recording begins."""
    kind = None
    start = _next_sound(data, place, end)
    while start is not None:
        at = start
        while at < end and (length := _frame_bytes(data, at)):
            here = data[at + 1] & 0x18, data[at + 2] & 0x0C, data[at + 3] & 0xC0 == 0xC0
            # One frame may be chance.
            if here != kind and _is_sound(data, at, end):
                if kind is not None:
                    yield at
                kind = here
            at += length
        start = _next_sound(data, at, end)


def mpeg_samples(file: BinaryIO) -> int:
    """How many samples the frames of an MP3 have that does not tell its length itself; 0 for one that does.

    Without that, a decoder that computes the length from the first frame's bit rate reads too little, or waits for
    more.
    """
    with _bytes_of(file) as data:
        n_samples, place = 0, _next_sound(data, _behind_tag(data, 0), len(data))
        if place is not None and (info := _info_place(data, place)):
            if bytes(data[info : info + 4]) == b"VBRI" or data[info + 7] & 1:
                return 0
            place += _frame_bytes(data, place)
        while place is not None:
            while length := _frame_bytes(data, place):
                n_samples += 1152 if data[place + 1] & 8 else 576
                place += length
            place = _next_sound(data, place, len(data))
        return n_samples


def _info_frame(data: Any, place: int) -> Iterator[tuple[int, int]]:
    """Where the frame that holds `Xing`, `Info` or `VBRI` begins, and how many bytes it says that follow (0: none)."""
    name = bytes(data[place : place + 4])
    for offset in (36,) if name == b"VBRI" else (36, 21, 13):
        start = place - offset
        if start >= 0 and _frame_bytes(data, start) and not any(data[start + 4 : place]):
            yield start, _told_bytes(data, start, place)
            return


def _info_place(data: Any, start: int) -> int:
    """Where `Xing`, `Info` or `VBRI` stands in the frame at `start`, 0 if it does not."""
    named = ((36, b"Xing"), (36, b"Info"), (36, b"VBRI"), (21, b"Xing"), (21, b"Info"), (13, b"Xing"), (13, b"Info"))
    return next((start + at for at, name in named if bytes(data[start + at : start + at + 4]) == name), 0)


def _told_bytes(data: Any, start: int, place: int) -> int:
    """How many bytes a stream has by what its first frame says at `place`: of bytes, else of frames; 0 for neither."""
    if bytes(data[place : place + 4]) == b"VBRI":
        return 0
    flags, first = data[place + 7], int.from_bytes(data[place + 8 : place + 12], "big")
    if flags & 2:
        where = place + 8 + 4 * (flags & 1)
        return int.from_bytes(data[where : where + 4], "big")
    end = start
    for _ in range(first + 1 if flags & 1 else 0):
        if not (length := _frame_bytes(data, end)):
            break
        end += length
    return end - start


def _frame_bytes(data: Any, place: int) -> int:
    """The length of the MPEG layer III frame at `place`, 0 if there is none."""
    head = data[place : place + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2 or head[1] & 0x18 == 0x08:
        return 0
    version = head[1] >> 3 & 3
    kbit_s, rate_place = _KBIT_S[1 if version == 3 else 2][head[2] >> 4], head[2] >> 2 & 3
    if not kbit_s or rate_place == 3:
        return 0
    return (144 if version == 3 else 72) * kbit_s * 1000 // _RATES_HZ[version][rate_place] + (head[2] >> 1 & 1)


def _behind_tag(data: Any, place: int) -> int:
    """Step over an ID3v2 tag, if one is there."""
    if bytes(data[place : place + 3]) != b"ID3" or place + 10 > len(data):
        return place
    a, b, c, d = (byte & 0x7F for byte in data[place + 6 : place + 10])
    return place + 10 + (a << 21 | b << 14 | c << 7 | d)


def _next_sound(data: Any, place: int, end: int) -> int | None:
    """The first of some MPEG frames in a row between `place` and `end`; tags and padding are stepped over."""
    if bytes(data[place : place + 3]) == b"TAG":
        place += _ID3V1_BYTES
    place = data.find(b"\xff", _behind_tag(data, place), end)
    while 0 <= place < end:
        if _is_sound(data, place, end):
            return int(place)
        place = data.find(b"\xff", place + 1, end)
    return None


def _is_sound(data: Any, place: int, end: int) -> bool:
    """Whether some MPEG frames follow each other from `place` on."""
    n_frames = 0
    while n_frames < _SURE_FRAMES and place < end and (length := _frame_bytes(data, place)):
        place, n_frames = place + length, n_frames + 1
    return n_frames == _SURE_FRAMES
