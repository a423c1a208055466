"""Headers are read for what they promise."""

import io
import struct

import numpy as np
import pytest
import soundfile

from pqm_plugin.corpus.headers import ending


def wav(n_samples: int = 100) -> bytearray:
    file = io.BytesIO()
    soundfile.write(file, np.ones(n_samples, dtype=np.int16), 16000, format="WAV", subtype="PCM_16")
    return bytearray(file.getvalue())


def test_the_bytes_behind_the_end_are_counted() -> None:
    assert ending(io.BytesIO(wav())).missing == 0
    assert ending(io.BytesIO(wav()[:-50])).missing == 50


def test_a_chunk_before_the_samples_is_stepped_over() -> None:
    whole = wav()
    place = whole.index(b"data")
    whole[place:place] = b"LIST" + struct.pack("<I", 5) + b"abcde\0"

    assert ending(io.BytesIO(whole)).missing == 0
    assert ending(io.BytesIO(whole[:-7])).missing == 7


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF024])
def test_the_size_that_a_pipe_writes_promises_nothing(size: int) -> None:
    whole = wav()
    place = whole.index(b"data") + 4
    whole[place : place + 4] = struct.pack("<I", size)

    assert ending(io.BytesIO(whole)).missing == 0


def test_a_sphere_header_promises_samples_times_channels_times_bytes() -> None:
    head = b"NIST_1A\n   1024\nsample_count -i 100\nsample_n_bytes -i 2\nchannel_count -i 2\nend_head\n".ljust(1024)

    assert ending(io.BytesIO(head + bytes(400))).missing == 0
    assert ending(io.BytesIO(head + bytes(300))).missing == 100


def test_a_file_within_a_file_is_read_from_where_it_stands() -> None:
    file = io.BytesIO(b"utt " + wav()[:-50])
    file.seek(4)

    assert ending(file).missing == 50
    assert file.tell() == 4


def test_anything_else_promises_nothing() -> None:
    assert ending(io.BytesIO(b"")).missing == 0
    assert ending(io.BytesIO(b"fLaC" + bytes(100))).missing == 0


def test_an_ogg_file_whose_last_page_does_not_end_the_stream_is_cut_off() -> None:
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(0).uniform(-0.3, 0.3, 200000), 16000, format="OGG")
    whole = file.getvalue()
    last_page = whole.rindex(b"OggS")

    assert ending(io.BytesIO(whole)).missing == 0
    assert ending(io.BytesIO(whole[:last_page])).missing == 1
    assert ending(io.BytesIO(whole[:-9])).missing == 9
    assert ending(io.BytesIO(whole[: last_page + 20])).missing == 1
