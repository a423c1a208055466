"""The forms of a transcript."""

import json

from pqm_plugin.personal.transcript import Segment, Transcript

FOUND = Transcript(
    "a.wav",
    "sat",
    3700.5,
    (
        Segment(0.0, 2.0, "HELLO", -1.0, 0.9),
        Segment(2.0, 2.5, "", 0.0, 1.0),
        Segment(3661.2345, 3700.5, "YOU", -2.0, 0.123456),
    ),
)


def test_subtitles_are_numbered_and_timed_and_silence_is_left_out():
    assert FOUND.as_srt() == ("1\n00:00:00,000 --> 00:00:02,000\nHELLO\n\n2\n01:01:01,234 --> 01:01:40,500\nYOU\n\n")


def test_json_is_one_line_with_the_words_and_their_times():
    line = FOUND.as_json()

    assert "\n" not in line
    found = json.loads(line)
    assert (found["text"], found["adapter"], found["duration_s"]) == ("HELLO YOU", "sat", 3700.5)
    assert found["segments"][2] == {
        "start_s": 3661.2345,
        "end_s": 3700.5,
        "text": "YOU",
        "score": -2.0,
        "confidence": 0.1235,
    }
