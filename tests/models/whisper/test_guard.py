"""Words that a decoder repeats or makes up are searched again, cut, and said; other words stay as they are."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperForConditionalGeneration

from pqm_plugin.corpus.recording import load_sound
from pqm_plugin.models.families import family_of, fetch_base
from pqm_plugin.models.interface import Hypothesis
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.models.whisper.guard import Attempt, Guard, Runaway, loops
from pqm_plugin.personal.folder import ModelFolder
from pqm_plugin.personal.making import quantize
from pqm_plugin.personal.opening import open_packed
from tests.tiny import make_tiny_whisper

RATE = 16000
POSITIONS = 448


def noise(seconds, level=0.1, seed=0):
    return (level * np.random.default_rng(seed).normal(size=int(RATE * seconds))).astype("float32")


def opened(folder, guard="always", beam_size=3, **options):
    search = SearchOptions(beam_size=beam_size, guard=guard, **options)
    recognizer = family_of(folder).load_float(folder, search, "cpu")
    recognizer.network.eval()
    return recognizer


@pytest.fixture(scope="session")
def looping(tmp_path_factory) -> Path:
    """A genuine Whisper whose decoder finds `o` the likeliest token wherever it is."""
    folder = make_tiny_whisper(tmp_path_factory.mktemp("looping") / "whisper", POSITIONS)
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    letter = model.model.decoder.embed_tokens.weight[ord("o") - ord("!")]
    with torch.no_grad():
        model.model.decoder.layer_norm.weight.zero_()
        model.model.decoder.layer_norm.bias.copy_(20 * letter)
    model.save_pretrained(folder)
    return folder


def counted(recognizer):
    """The rows of each step of the decoder from now on."""
    steps = []
    decoder = recognizer.network.model.decoder
    decoder.register_forward_pre_hook(lambda *_: steps.append(1))
    return steps


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_loop_is_stopped_early_cut_and_said(looping, beam_size, caplog):
    free, guarded = (opened(looping, guard, beam_size) for guard in ("never", "always"))
    steps = counted(guarded)

    [loop] = free.recognize([noise(1.9)])
    [cut] = guarded.recognize([noise(1.9)])

    assert loop.text == "o" * (POSITIONS - 2) and not loop.is_repaired
    assert (cut.text, cut.n_tokens, cut.is_repaired) == ("o", 2, True)
    assert math.isfinite(cut.score) and cut.score < 0
    # Three searches of 28 tokens, one that may not repeat itself, and the scores of what they found.
    assert len(steps) < POSITIONS / 2
    assert caplog.text.count("words that nobody said in 1.9 s of audio") == 1
    assert "'o' is left of them" in caplog.text


def test_pieces_that_are_searched_again_keep_their_own_words(tiny_whisper):
    pieces = [noise(1), noise(0.4, seed=1), noise(1.9, seed=2), noise(0.7, seed=3)]
    recognizer = opened(tiny_whisper)

    together = recognizer.recognize(pieces)

    alone = [recognizer.recognize([piece])[0] for piece in pieces]
    assert [found.text for found in together] == [found.text for found in alone]


def test_the_same_sound_has_the_same_words_and_scores(looping):
    first, second = (opened(looping).recognize([noise(1), noise(0.15)]) for _ in range(2))

    assert first == second


@pytest.mark.parametrize("beam_size", [1, 3])
def test_pieces_that_fail_are_searched_again_beside_others_as_alone(tiny_whisper, beam_size):
    # Random weights: some are trusted at this threshold, others are not.
    recognizer = opened(tiny_whisper, beam_size=beam_size, logprob_threshold=-2.0)
    clips = [noise(length, seed=seed) for seed, length in enumerate((0.4, 1.0, 2.0, 0.2))]

    together = recognizer.recognize(clips)

    alone = [recognizer.recognize([clip])[0] for clip in clips]
    assert [each.text for each in together] == [each.text for each in alone]
    assert [each.score for each in together] == pytest.approx([each.score for each in alone], rel=1e-4)


def test_words_that_pass_cost_one_search_and_are_those_without_a_guard(tiny_whisper):
    clips = [noise(1, seed=seed) for seed in range(3)]
    free, guarded = opened(tiny_whisper, "never"), opened(tiny_whisper, logprob_threshold=-100.0)
    steps = counted(free), counted(guarded)

    assert free.recognize(clips) == guarded.recognize(clips)
    assert len(steps[0]) == len(steps[1])


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([7] * 24, True),
        ([7] * 23, False),
        ([1, 2, 3] + [4, 5] * 12, True),
        ([4, 5] * 12 + [1], False),
        (list(range(30)) * 4, True),
        (list(range(30)) * 3, False),
        (list(range(100)), False),
        ([], False),
    ],
)
def test_four_copies_at_the_end_are_a_loop(tokens, expected):
    assert loops(torch.tensor([tokens], dtype=torch.long)).tolist() == [expected]


def test_a_piece_stops_with_all_its_hypotheses_or_with_none():
    watch = Runaway(1, [100, 100, 12], [False, False, False])
    loop, words = [0] + [7] * 28, [0, *range(28)]

    stops = watch(torch.tensor([loop, loop[:-1] + [9], words, loop, words, words]), None)

    # The first repeats itself in both of two hypotheses, the second in one, the third has no time left.
    assert stops.tolist() == [True, True, False, False, True, True]


def attempt(text, mean, no_speech=0.0, **options):
    n = len(text.split())
    return Attempt(Hypothesis(text, mean * (n + 1), n), no_speech, torch.arange(n), **options)


LOOP = "go on " + "and so it went " * 20


@pytest.mark.parametrize(
    ("attempts", "text", "is_repaired"),
    [
        ([attempt("go on", -0.5)], "go on", False),
        ([attempt(LOOP, -0.1), attempt("go on", -0.5)], "go on", False),
        ([attempt("a", -1.5), attempt("b", -1.4), attempt("c", -1.6)], "b", False),
        ([attempt(LOOP, -0.1), attempt("b", -1.4), attempt("c", -1.2, is_free=False)], "b", False),
        ([attempt("thank you", -1.5, no_speech=0.7)], "", True),
        ([attempt("thank you", -0.9, no_speech=0.7)], "thank you", False),
        ([attempt(LOOP, -0.1), attempt(LOOP, -0.1, is_free=False)], "go on and so it went", True),
        ([attempt(LOOP, -0.1, no_speech=0.7), attempt(LOOP, -0.1, no_speech=0.7)], "", True),
        ([attempt(". " * 40, -0.1)], "", True),
        ([attempt("more than anybody says", -0.1, is_long=True)], "", True),
    ],
)
def test_the_best_attempt_is_kept_by_rule(attempts, text, is_repaired):
    chosen = Guard(SearchOptions()).choose(attempts)

    assert (chosen.text, chosen.is_repaired) == (text, is_repaired)


def test_the_probability_that_nobody_speaks_is_that_of_its_token_after_the_first(tiny_whisper, looping, tmp_path):
    from transformers import WhisperTokenizer

    folder = make_tiny_whisper(tmp_path / "whisper")
    tokenizer = WhisperTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|nospeech|>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    recognizer = opened(folder)
    model.eval()
    features = recognizer.features(noise(2))[:200]
    with torch.no_grad():
        encoded = recognizer._encode([features])
        logits = model(encoder_outputs=encoded.outputs(), decoder_input_ids=torch.tensor([[257]])).logits[0, 0]

        [found] = recognizer._attempts(recognizer._encode([features]), 1)

    assert found.no_speech == pytest.approx(logits.softmax(-1)[259].item(), rel=1e-4)
    assert opened(looping)._attempts(opened(looping)._encode([features]), 1)[0].no_speech == 0.0


def test_what_repeats_itself_with_words_of_ones_own_is_searched_again_without_them():
    asked = []
    loop = Attempt(Hypothesis("nome " * 30, -30.0, 30), 0.0, np.array([7] * 30))
    clear = Attempt(Hypothesis("go on", -1.0, 2), 0.0, np.array([1, 2]))
    unsure = Attempt(Hypothesis("stop", -9.0, 2), 0.0, np.array([1, 2]))

    def search(size, stopping_criteria, *, expects=()):
        asked.append((size, expects))
        return [loop if expects == [True, True] else clear, unsure]

    found = Guard(SearchOptions()).recognize(search, 5, lambda texts: [], 1, [9.0, 9.0], expects=True)

    # The other piece, whose words are not trusted, keeps them to the end.
    assert asked == [(5, [True, True]), (5, [False, True]), (2, [False, True]), (1, [False, True])]
    assert [one.text for one in found] == ["go on", "stop"]
    asked.clear()
    Guard(SearchOptions()).recognize(search, 2, lambda texts: [], 1, [9.0, 9.0])
    assert asked == [(2, ()), (1, ())]


def test_requests_name_the_guard_only_where_it_is_set_otherwise(tiny_whisper, tiny_conformer):
    for folder in (tiny_whisper, tiny_conformer):
        family = family_of(folder)

        before = family.search_options(SearchOptions())
        after = family.search_options(SearchOptions(guard="always", compression_ratio_threshold=2.0))

        assert not {"guard", "compression_ratio_threshold", "logprob_threshold", "no_speech_threshold"} & before.keys()
        assert after == before | {"guard": "always", "compression_ratio_threshold": 2.0}
    assert family_of(tiny_whisper).describe_search(SearchOptions(guard="always")) == "beam 10, guarded"


@pytest.fixture(scope="session")
def genuine(tmp_path_factory) -> dict[str, Path]:
    """The published Whisper that `PQM_WHISPER` names, a Hugging Face or CTranslate2 folder, and its 4 bits."""
    if not os.environ.get("PQM_WHISPER"):
        pytest.skip("no published Whisper: set PQM_WHISPER to its Hugging Face or CTranslate2 folder")
    root = tmp_path_factory.mktemp("genuine")
    fetch_base(os.environ["PQM_WHISPER"], root / "float")
    quantize(str(root / "float"), root / "packed")
    return {"float": root / "float", "packed": root / "packed"}


def hear(genuine, bits, guard, beam_size):
    search = SearchOptions(beam_size=beam_size, guard=guard)
    if bits == "packed":
        return open_packed(ModelFolder.of(genuine["packed"]), search).recognizer
    return opened(genuine["float"], guard, beam_size)


@pytest.fixture(scope="session")
def spoken(shared) -> np.ndarray:
    """Real speech: "Go. Do you hear?"."""
    return load_sound(shared / "data/LibriSpeech/dev-clean/84/121123/84-121123-0000.flac", RATE)


def without_words(spoken):
    times = np.arange(10 * RATE) / RATE
    click = np.zeros(3 * RATE, np.float32)
    click[RATE : RATE + 40] = noise(40 / RATE, 0.8)
    hum = 0.1 * np.sin(2 * np.pi * 50 * times) + 0.03 * np.sin(2 * np.pi * 150 * times)
    beeps = np.where(times % 1 < 0.2, 0.3 * np.sin(2 * np.pi * 1000 * times), 0)
    return {
        "a click in silence": click,
        "noise at 0.001": noise(10, 0.001),
        "a hum": hum.astype(np.float32),
        "beeps": beeps.astype(np.float32),
        "0.15 seconds of speech": spoken[RATE : RATE + int(0.15 * RATE)],
    }


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("beam_size", [5, 10])
@pytest.mark.parametrize("bits", ["packed", "float"])
def test_a_published_whisper_writes_no_repetitions_where_nobody_speaks_and_is_soon_done(
    genuine, spoken, bits, beam_size
):
    recognizer = hear(genuine, bits, "always", beam_size)
    steps = counted(recognizer)

    for name, sound in without_words(spoken).items():
        steps.clear()
        [found] = recognizer.recognize([sound])
        assert len(found.text.split()) <= 8, (name, found)
        # All searches together; one alone would write to the end of the decoder, 446 tokens.
        assert len(steps) < 250, name


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("bits", ["packed", "float"])
def test_a_published_whisper_hears_one_second_of_speech_as_some_words(genuine, spoken, bits):
    recognizer = hear(genuine, bits, "always", 10)

    seconds = [spoken[start : start + RATE] for start in range(0, len(spoken) - RATE, RATE // 2)]

    assert all(len(found.text.split()) <= 8 for second in seconds for found in recognizer.recognize([second]))


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("beam_size", [1, 5])
@pytest.mark.parametrize("bits", ["packed", "float"])
def test_the_guard_changes_no_word_of_an_evaluation_set(genuine, shared, bits, beam_size, record_property):
    folders = sorted((shared / "data/LibriSpeech/dev-clean").iterdir())
    paths = [path for folder in folders for path in sorted(folder.glob("*/*.flac"))[:6]]
    # Those of one length together, as stage 6 does.
    paths.sort(key=lambda path: -soundfile.info(path).frames)
    free, guarded = (hear(genuine, bits, guard, beam_size) for guard in ("never", "always"))
    words = {True: [], False: []}

    for start in range(0, len(paths), 8):
        batch = [load_sound(path, RATE) for path in paths[start : start + 8]]
        pieces = [piece for sound in batch for piece in free.pieces(sound)]
        for recognizer in (free, guarded):
            words[recognizer is guarded] += [found.text for found in recognizer.recognize(pieces)]

    changed = sum(one != other for one, other in zip(words[True], words[False], strict=True))
    record_property("utterances", len(paths))
    assert (len(folders), len(paths), changed) == (10, 60, 0)
