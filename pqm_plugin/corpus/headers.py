"""What an audio file promises about its length, for the formats whose decoder says nothing when the end is missing."""

import os
import re
from dataclasses import dataclass
from typing import BinaryIO, Literal

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


def missing_bytes(file: BinaryIO) -> int:
    """Return how many bytes at least a WAV, W64, AIFF, AU, SPHERE or Ogg file lacks at its end.

    0 for a whole file, for any other format, and for a header without a length. The file is read from where it stands.
    """
    return ending(file).missing


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
