"""Training a small Whisper-shaped model from nothing."""

import itertools
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch
import yaml
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperProcessor

from pqm_plugin.errors import PqmError
from pqm_plugin.files import exclusive
from pqm_plugin.models.whisper import train as whisper_train
from pqm_plugin.models.whisper.data import (
    AugmentOptions,
    ModelOptions,
    Utterance,
    WhisperOptions,
    batches,
    load_options,
    make_tokenizer,
    mask,
)
from pqm_plugin.models.whisper.train import Learner, train_base, training_sample_rate

WORDS = ("RED", "BLUE", "GREEN", "BLACK")
TONES_HZ = (300, 500, 800, 1200)
SIZES = {"num_mel_bins": 20, "d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_target_positions": 16}
SIZES |= {f"{side}_{what}": 1 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
CONFIG = {
    "window_s": 1,
    "model": SIZES,
    "train": {"epochs": 3, "average": 2, "batch_size": 4, "warmup_steps": 2, "full_windows": 0.5},
}
FOLDER = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture
def data(tmp_path):
    """A data folder of eight utterances: a tone of half a second for each word."""
    folder = tmp_path / "data"
    folder.mkdir()
    audio, texts = [], []
    for number in range(8):
        words = [(number + shift) % 4 for shift in range(1 + number % 2)]
        tones = np.concatenate([np.sin(np.arange(8000) / 16000 * 2 * np.pi * TONES_HZ[word]) for word in words])
        soundfile.write(folder / f"u{number}.wav", 0.3 * tones, 16000)
        audio.append(f"u{number} {folder}/u{number}.wav\n")
        texts.append(f"u{number} {' '.join(WORDS[word] for word in words)}\n")
    (folder / "wav.scp").write_text("".join(audio))
    (folder / "text").write_text("".join(texts))
    return folder


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


def train(data, config, out, **options):
    train_base(data, data, config, out, **({"token_type": "bpe", "n_tokens": 16, "n_threads": 1} | options))


def contents(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_a_trained_folder_holds_a_whisper_model_and_nothing_that_only_training_needs(data, config, tmp_path):
    train(data, config, tmp_path / "exp")

    assert set(contents(tmp_path / "exp")) == FOLDER | {"inputs.json", "train.log", ".done"}
    rows = [json.loads(line) for line in (tmp_path / "exp/train.log").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert all(0 <= row["valid_accuracy"] <= 1 for row in rows)


def test_a_trained_folder_can_be_moved_and_decodes_in_plain_transformers(data, config, tmp_path):
    train(data, config, tmp_path / "made")
    moved = (tmp_path / "made").rename(tmp_path / "moved")

    model, loading = WhisperForConditionalGeneration.from_pretrained(moved, output_loading_info=True)
    processor = WhisperProcessor.from_pretrained(moved)

    assert not any(loading.values())
    assert model.dtype == torch.float32
    speech, _ = soundfile.read(data / "u0.wav", dtype="float32")
    features = processor(speech, sampling_rate=16000, return_tensors="pt").input_features
    assert features.shape == (1, 20, 100)
    [text] = processor.batch_decode(model.generate(features, num_beams=2), skip_special_tokens=True)
    assert text == text.lower()


@pytest.mark.slow
def test_tones_are_learned(data, config, tmp_path):
    settings = CONFIG | {"spec_augment": {"mel_masks": 0}}
    settings["model"] = SIZES | {"d_model": 32, "dropout": 0}
    settings["train"] = CONFIG["train"] | {"epochs": 60, "learning_rate": 5e-3, "warmup_steps": 10}
    config.write_text(yaml.safe_dump(settings))
    train(data, config, tmp_path / "exp")

    model = WhisperForConditionalGeneration.from_pretrained(tmp_path / "exp")
    processor = WhisperProcessor.from_pretrained(tmp_path / "exp")
    audio = [soundfile.read(data / f"u{number}.wav", dtype="float32")[0] for number in range(4)]
    features = processor(audio, sampling_rate=16000, return_tensors="pt").input_features
    texts = processor.batch_decode(model.generate(features), skip_special_tokens=True)

    assert texts == [" red", " blue green", " green", " black red"]


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(data, config, tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        train(data, config, tmp_path / name, seed=seed)

    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert contents(tmp_path / "one")["model.safetensors"] != contents(tmp_path / "three")["model.safetensors"]


@pytest.mark.parametrize("cut", ["checkpoint.pth", "model.safetensors", ".done"])
def test_a_run_that_is_cut_off_before_a_file_ends_with_what_one_run_leaves(data, config, tmp_path, monkeypatch, cut):
    train(data, config, tmp_path / "one")
    asides = itertools.count()
    whole = whisper_train.whole_file

    def cut_off(path):
        if path.name == cut and next(asides) == (cut == "checkpoint.pth"):
            raise KeyboardInterrupt
        return whole(path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(whisper_train, "whole_file", cut_off)
        patch.setattr("pqm_plugin.files.whole_file", cut_off)
        train(data, config, tmp_path / "two")
    assert not (tmp_path / "two/.done").exists()

    train(data, config, tmp_path / "two")

    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.slow
def test_training_killed_and_resumed_leaves_what_one_run_leaves(data, config, tmp_path):
    train(data, config, tmp_path / "one")
    call = (
        f"train_base(Path({str(data)!r}), Path({str(data)!r}), Path({str(config)!r}), Path({str(tmp_path / 'two')!r}),"
    )
    program = f"from pathlib import Path; from pqm_plugin.models.whisper.train import train_base; {call}"
    program += "token_type='bpe', n_tokens=16, n_threads=1)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    killed = subprocess.Popen([sys.executable, "-c", program], env=environment)
    while killed.poll() is None and not (tmp_path / "two/checkpoint.pth").exists():
        time.sleep(0.001)
    killed.send_signal(signal.SIGKILL)
    killed.wait()

    train(data, config, tmp_path / "two")

    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_a_finished_folder_is_left_alone_and_says_so_at_once(data, config, tmp_path, monkeypatch):
    train(data, config, tmp_path / "exp")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "exp").iterdir()}
    monkeypatch.setattr(whisper_train, "load_utterances", None)

    train(data, config, tmp_path / "exp")

    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "exp").iterdir()} == before
    with pytest.raises(PqmError, match="trained with another n_tokens, seed"):
        train(data, config, tmp_path / "exp", n_tokens=15, seed=1)


def test_two_processes_do_not_train_into_one_folder(data, config, tmp_path):
    with exclusive(tmp_path / "exp/.lock"), pytest.raises(PqmError, match="is at work on it"):
        train(data, config, tmp_path / "exp")


@pytest.mark.slow
def test_training_leaves_the_number_of_threads_and_the_random_state_as_they_were(data, config, tmp_path):
    threads, state = torch.get_num_threads(), torch.get_rng_state()

    train(data, config, tmp_path / "exp", n_threads=threads + 1)

    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_longer_than_the_window_is_left_out_with_a_warning(data, config, tmp_path, caplog):
    soundfile.write(data / "u3.wav", 0.1 * np.ones(16001), 16000)

    with caplog.at_level(logging.WARNING):
        train(data, config, tmp_path / "exp")

    assert "1 utterances are longer than 1 s or 16 tokens and left out, the first is u3" in caplog.text


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("text", "", "text is empty"),
        ("wav.scp", "u0 sox a.wav - |\n", "write segments and pipes out as files first"),
        ("u5.wav", "no sound", r"u5.wav cannot be read \(.*\): fix it or drop the utterance"),
    ],
)
def test_a_data_folder_that_does_not_do_is_named(data, config, tmp_path, file, content, message):
    (data / file).write_text(content)

    with pytest.raises(PqmError, match=message):
        train(data, config, tmp_path / "exp")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("train: {epoch: 3}", "train: unknown name 'epoch'; did you mean 'epochs'"),
        ("model: {d_model: wide}", "model: d_model: 'wide' is not a whole number"),
        ("train: {learning_rate: fast}", "train: learning_rate: 'fast' is not a number"),
        ("train: {ctc_weight: 2}", "ctc_weight: 2.0 must lie between 0 and 1"),
        ("window_s: 0", "window_s: 0 must be greater than 0"),
        ("model: {d_model: 20}", "d_model must be a multiple of twice encoder_attention_heads, 8"),
        ("model: 3", "model: expected names and values, got 3"),
        ("- 1", "must map option names to values: give the settings of a Whisper model"),
    ],
)
def test_settings_that_do_not_do_are_refused(tmp_path, settings, message):
    path = tmp_path / "train.yaml"
    path.write_text(settings)

    with pytest.raises(PqmError, match=message):
        load_options(path)


def test_settings_have_defaults_and_read_exponents_without_a_dot(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text("train: {learning_rate: 1e-3}\nspec_augment: {time_masks: 0}")

    options = load_options(path)

    assert (options.train.learning_rate, options.spec_augment.time_masks) == (1e-3, 0)
    assert options.model == ModelOptions()
    assert training_sample_rate(path) == 16000


@pytest.mark.parametrize("loudness", [0.3, 1e-4, 0.0])
def test_silence_behind_an_utterance_has_the_value_that_whisper_gives_it(loudness):
    audio = loudness * np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    mel = torch.from_numpy(WhisperFeatureExtractor(chunk_length=1)(audio, sampling_rate=16000).input_features[0])

    assert Utterance(mel[:, :52], []).silence == pytest.approx(float(mel[0, -1]), abs=1e-6)
    assert mel[:, 52:].unique().numel() == 1


def test_the_encoder_for_any_length_gives_what_that_of_transformers_gives_for_a_window():
    tokenizer = make_tokenizer(["red blue"], "bpe", 9)
    learner = Learner(WhisperOptions(window_s=1), tokenizer).eval()
    mel = torch.randn(2, 80, 100)

    with torch.no_grad():
        assert torch.allclose(learner.encode(mel), learner.whisper.model.encoder(mel).last_hidden_state, atol=1e-6)
        assert learner.encode(mel[:, :, :60]).shape == (2, 30, 144)


def test_masks_are_as_many_and_as_wide_as_asked_and_hold_the_mean():
    mel = torch.arange(200.0).reshape(10, 20)

    masked = mask(mel, AugmentOptions(time_masks=1, time_width_s=0.02, mel_masks=0), random.Random(1))

    changed = (masked != mel).any(dim=0)
    assert changed.sum() <= 2
    assert (masked[:, changed] == mel.mean()).all()
    assert torch.equal(mask(mel, AugmentOptions(time_masks=0, mel_masks=0), random.Random(0)), mel)


def test_batches_hold_every_utterance_once_and_similar_lengths_together():
    utterances = [Utterance(torch.zeros(1, 10 * length), []) for length in (1, 9, 1, 9, 1, 9, 9)]

    made = batches(utterances, 3, random.Random(0))

    lengths = sorted(sorted(utterance.mel.shape[1] for utterance in batch) for batch in made)
    assert lengths == [[10, 10, 10], [90], [90, 90, 90]]
