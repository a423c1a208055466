"""Who of the enrolled speaks: by sound, and by the adapters' own likelihood."""

import json

import numpy as np
import soundfile

from benchmarks.who import by_sound, by_words

RATE = 16000


def test_voices_of_other_sound_are_told_apart_on_clips_that_were_not_enrolled(tmp_path):
    random = np.random.default_rng(0)
    clips = {}
    for name, shape in (("high", [1.0, -0.9]), ("low", [1.0, 0.9])):
        for number in range(24):
            path = tmp_path / f"{name}-{number}.wav"
            soundfile.write(path, 0.1 * np.convolve(random.standard_normal(4 * RATE), shape), RATE)
            clips.setdefault(name, []).append(path)

    assert by_sound(clips) == {"voices": 2, "clips": 20, "right": 20, "right_percent": 100.0}


def test_a_clip_is_right_where_its_own_adapter_scores_it_best_and_short_clips_do_not_count(tmp_path):
    scores = {"speaker": (-1.0, -5.0, -9.0), "other": (-2.0, -4.0, -1.0)}
    for system, of in scores.items():
        folder = tmp_path / f"decode_nf4+{system}" / "test" / "parts"
        folder.mkdir(parents=True)
        rows = [{"request": {}}] + [
            {"utterance": str(number), "score": score, "audio_s": seconds}
            for number, (score, seconds) in enumerate(zip(of, (4.0, 5.0, 2.0), strict=True))
        ]
        (folder / "ada.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    assert by_words(tmp_path) == {"voices": 2, "clips": 2, "right": 1, "right_percent": 50.0}
