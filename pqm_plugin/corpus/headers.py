"""What an audio file promises about its length, for the formats whose decoder says nothing when the end is missing."""

import os
import re
from typing import BinaryIO, Literal

# Recorders that write to a pipe cannot know the length and put a number near 2 or 4 GiB there.
_UNKNOWN_SIZE = 0x7FFF0000
# No Ogg page is longer: the last one begins within this many bytes of the end.
_OGG_PAGE = 27 + 255 + 255 * 255


def missing_bytes(file: BinaryIO) -> int:
    """Return how many bytes at least a WAV, AIFF, SPHERE or Ogg file lacks at its end.

    0 for a whole file, for any other format, and for a header without a length. The file is read from where it stands.
    """
    start = file.tell()
    length = file.seek(0, os.SEEK_END) - start
    file.seek(start)
    head = file.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        end = _end_of_chunk(file, b"data", "little", length)
    elif head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        end = _end_of_chunk(file, b"SSND", "big", length)
    elif head[:7] == b"NIST_1A":
        end = _end_of_sphere(head + file.read(1024))
    elif head[:4] == b"OggS":
        file.seek(start + max(0, length - _OGG_PAGE))
        end = length + _missing_of_ogg(file.read(_OGG_PAGE))
    else:
        end = 0
    file.seek(start)
    return max(0, end - length)


def _end_of_chunk(file: BinaryIO, wanted: bytes, byteorder: Literal["little", "big"], length: int) -> int:
    """Return the offset at which the chunk `wanted` ends, 0 if it is absent or of unknown size."""
    offset = 12
    while offset + 8 <= length:
        name, size = file.read(4), int.from_bytes(file.read(4), byteorder)
        offset += 8
        if name == wanted:
            return 0 if size >= _UNKNOWN_SIZE else offset + size
        offset += size + size % 2
        file.seek(size + size % 2, os.SEEK_CUR)
    return 0


def _end_of_sphere(head: bytes) -> int:
    """Return the offset at which the samples of an uncompressed SPHERE file end, 0 if the header does not say."""
    fields = dict(re.findall(rb"^(\w+) -(?:i|s\d+) (\S+)", head, flags=re.MULTILINE))
    header_size = re.match(rb"NIST_1A\s+(\d+)", head)
    coding = fields.get(b"sample_coding", b"pcm")
    if header_size is None or b"sample_count" not in fields or coding not in (b"pcm", b"ulaw", b"alaw"):
        return 0
    n_bytes = int(fields.get(b"sample_n_bytes", b"2")) * int(fields.get(b"channel_count", b"1"))
    return int(header_size.group(1)) + int(fields[b"sample_count"]) * n_bytes


def _missing_of_ogg(tail: bytes) -> int:
    """Return how many bytes the last page lacks, or 1 if it is whole but does not end the stream."""
    page = tail[max(0, tail.rfind(b"OggS")) :]
    segments = page[27 : 27 + page[26]] if len(page) > 26 else b""
    if len(page) < 27 or len(segments) < page[26]:
        return 1
    missing = 27 + len(segments) + sum(segments) - len(page)
    return missing if missing > 0 else int(not page[5] & 4)
