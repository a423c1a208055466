"""Whisper that encodes what is spoken: places, weights, and what an untouched model makes of them."""

import json

import numpy as np
import pytest
import soundfile
import torch

import pqm_plugin
from pqm_plugin.adapters.files import read_info
from pqm_plugin.commands.__main__ import main
from pqm_plugin.files import write_json
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.models.replay import prepare_loss
from pqm_plugin.models.whisper.context import MARGIN, SAMPLED, spoken
from pqm_plugin.personal.making import quantize
from pqm_plugin.personal.options import EnrollOptions
from pqm_plugin.personal.runtime import open_hearing

CLIP = SearchOptions(beam_size=2, context="clip")


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(size=int(16000 * seconds)).astype("float32") * 0.1


def opened(folder, context="clip"):
    recognizer = family_of(folder).load_float(folder, SearchOptions(beam_size=2, context=context), "cpu")
    recognizer.network.eval()
    return recognizer


def where_silence_is_alike(recognizer):
    """Let silent places differ by nothing, but for the last."""
    with torch.no_grad():
        recognizer.network.model.encoder.embed_positions.weight[60:] = 0
    return recognizer


def test_a_few_silent_places_stand_for_all_of_them():
    found = spoken([101, 2900], 3000)

    dense, silent = 51 + MARGIN, 1499 - 51 - MARGIN
    assert found.positions.shape == found.weights.shape == (2, 1500)
    assert found.positions[0, :dense].tolist() == list(range(dense))
    sampled = found.positions[0, dense : dense + SAMPLED]
    assert sampled[0] >= dense and sampled[-1] < 1499 and len(set(np.diff(sampled))) <= 2
    assert np.exp(found.weights[0, dense : dense + SAMPLED]).sum() == pytest.approx(silent, rel=1e-5)
    assert not found.weights[0, :dense].any() and (found.weights[0, dense + SAMPLED : -1] < -1e20).all()
    # The last place is the window's, whatever the row.
    assert found.positions[0, -1] == 1499 and found.weights[0, -1] == 0
    # Where hardly anything is silent, the window is encoded as it is.
    assert found.positions[1].tolist() == list(range(1500)) and not found.weights[1].any()
    assert not found.are_all and spoken([2900], 3000).are_all and found.n_frames == 3000
    assert spoken([101], 3000).n_frames == 2 * (dense + SAMPLED + 1)


def test_what_is_encoded_is_what_the_whole_window_gives_where_silence_is_alike(spacious_whisper):
    clip, window = (where_silence_is_alike(opened(spacious_whisper, context)) for context in ("clip", "window"))
    features = [clip.features(noise(s, place)) for place, s in enumerate((0.6, 0.9))]
    tokens = [clip.token_ids("go on"), clip.token_ids("stop")]

    found, expected = (one._encode(features) for one in (clip, window))

    assert found.hidden.shape[1] < 0.7 * expected.hidden.shape[1]
    for row, own in enumerate(features):
        n = -(-len(own) // 2)
        assert torch.allclose(found.hidden[row, :n], expected.hidden[row, :n], atol=2e-5)
    assert torch.allclose(clip._forced(found, tokens)[0], window._forced(expected, tokens)[0], atol=1e-4)
    # It is the weights that do it.
    evenly = torch.where(found.weights < -1e20, found.weights, 0)
    with clip._weighing.by(evenly):
        off = clip._whisper.model(
            encoder_outputs=found.outputs(), decoder_input_ids=torch.tensor([[257, 65]] * 2), use_cache=False
        )
    right = clip._logits(found, torch.tensor([[257, 65]] * 2))
    assert not torch.allclose(clip._whisper.proj_out(off.last_hidden_state), right, atol=1e-3)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_words_are_those_of_the_whole_window_where_silence_is_alike(spacious_whisper, beam_size):
    clip, window = (where_silence_is_alike(opened(spacious_whisper, context)) for context in ("clip", "window"))
    clip._beam_size = window._beam_size = beam_size
    pieces = [noise(0.5), noise(1.0, 1)]

    found, expected = clip.recognize(pieces), window.recognize(pieces)

    assert [one.text for one in found] == [one.text for one in expected]
    assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=1e-3)


def test_no_row_depends_on_a_longer_one_beside_it(spacious_whisper):
    clip = opened(spacious_whisper)
    pieces = [noise(0.4), noise(2.2, 1), noise(8, 2)]

    together = clip.recognize(pieces)

    alone = [clip.recognize([piece])[0] for piece in pieces]
    assert [one.text for one in together] == [one.text for one in alone]
    assert [one.score for one in together] == pytest.approx([one.score for one in alone], abs=1e-3)


def test_a_clip_that_fills_the_window_costs_what_the_window_does_bit_for_bit(spacious_whisper):
    clip, window = opened(spacious_whisper), opened(spacious_whisper, "window")
    features, tokens = [clip.features(noise(7.8))], [clip.token_ids("no")]

    assert clip.loss(features, tokens).total.item() == window.loss(features, tokens).total.item()


def test_layers_below_what_learns_are_computed_once(spacious_whisper):
    clip = opened(spacious_whisper)
    clip.network.requires_grad_(False)
    clip.network.model.decoder.requires_grad_(True)
    features = [clip.features(noise(0.4)), clip.features(noise(1.4, 1))]
    tokens = [clip.token_ids("no"), clip.token_ids("yes")]

    prepared = prepare_loss(clip, features, tokens)

    assert len(prepared.modules) == 3
    assert prepared().total.item() == clip.loss(features, tokens).total.item()


def test_gradients_reach_encoder_and_decoder(spacious_whisper):
    clip = opened(spacious_whisper)

    clip.loss([clip.features(noise(0.5))], [clip.token_ids("no")]).total.backward()

    model = clip.network.model
    assert model.encoder.conv1.weight.grad.any() and model.decoder.layers[0].encoder_attn.k_proj.weight.grad.any()


def test_what_was_learned_or_decoded_with_other_places_is_not_the_same_request(spacious_whisper):
    family = family_of(spacious_whisper)

    for options in (family.training_options, family.search_options):
        assert options(CLIP)["clip_places"] == [MARGIN, SAMPLED]
        assert "clip_places" not in options(SearchOptions(beam_size=2))
        assert options(SearchOptions(beam_size=2))["context"] == "window"
    assert family.describe_search(CLIP) == "beam 2, encoding what is spoken"


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_a_person_hears_the_window_unless_the_maker_says_otherwise(spacious_whisper, tmp_path, runtime):
    folder = tmp_path / "model"
    quantize(str(spacious_whisper), folder)

    assert not open_hearing(folder, runtime=runtime).recognizer._clip
    write_json(folder / "about.json", {"decode": {"context": "clip"}})
    assert open_hearing(folder, runtime=runtime).recognizer._clip


@pytest.mark.parametrize("learned", ["window", "clip"])
def test_a_voice_is_heard_with_what_it_was_learned_on_and_nothing_else(spacious_whisper, tmp_path, learned, capsys):
    folder, path = tmp_path / "model", str(tmp_path / "clip.wav")
    quantize(str(spacious_whisper), folder)
    write_json(folder / "about.json", {"decode": {"context": learned, "guard": "never"}})
    soundfile.write(path, noise(0.5), 16000)
    options = EnrollOptions(epochs=1, few_epochs=1, learning_rate=0.05)
    other = {"window": "clip", "clip": "window"}[learned]

    pqm_plugin.load(folder).enroll("ada", [noise(0.5)], ["GO ON"], options=options)

    search = read_info(folder / "speakers" / "ada").request["search"]
    assert (search["context"], search.get("clip_places")) == (learned, [MARGIN, SAMPLED] if learned == "clip" else None)
    for runtime in ("onnx", "torch"):
        command = ["transcribe", str(folder), path, "--speaker", "ada", "--runtime", runtime]
        assert main(command) == 0
        capsys.readouterr()
        assert main([*command, "--context", other]) == 1
        error = capsys.readouterr().err
        assert f"ada has learned on the context {learned}, this is {other}: use context {learned}, or run" in error
        assert main([*command[:3], "--plain", "--runtime", runtime, "--context", other]) == 0


def test_the_command_line_chooses_the_context(spacious_whisper, tmp_path, capsys):
    folder, path = tmp_path / "model", str(tmp_path / "clip.wav")
    quantize(str(spacious_whisper), folder)
    soundfile.write(path, noise(0.5), 16000)
    command = ["transcribe", str(folder), path, "--guard", "never", "--format", "json"]

    found = []
    for options in ([], ["--context", "window"], ["--context", "clip"]):
        assert main([*command, *options]) == 0
        found.append(json.loads(capsys.readouterr().out))

    assert found[0] == found[1] != found[2]
    write_json(folder / "about.json", {"decode": {"context": "all"}})
    assert main(["transcribe", str(folder), path]) == 1
    assert "context 'all': use 'window' or 'clip'" in capsys.readouterr().err
