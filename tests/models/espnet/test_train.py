"""Training a base with ESPnet's trainer."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import yaml

from pqm_plugin.errors import PqmError
from pqm_plugin.models.espnet.train import train_base
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions

WORDS = ("RED", "BLUE", "GREEN", "BLACK")
TONES_HZ = (300, 500, 800, 1200)
CONFIG = {
    "encoder": "conformer",
    "encoder_conf": {
        "output_size": 8,
        "attention_heads": 2,
        "linear_units": 16,
        "num_blocks": 1,
        "cnn_module_kernel": 3,
    },
    "decoder": "transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 16, "num_blocks": 1},
    "frontend_conf": {"n_mels": 20, "fs": 16000},
    "normalize": "utterance_mvn",
    "model_conf": {"ctc_weight": 0.3},
    "optim": "adam",
    "optim_conf": {"lr": 0.01},
    "batch_type": "folded",
    "batch_size": 4,
    "max_epoch": 3,
    "best_model_criterion": [["valid", "acc", "max"]],
    "keep_nbest_models": 2,
    "num_workers": 0,
    "num_att_plot": 0,
    "use_matplotlib": False,
    "use_tensorboard": False,
    "log_interval": 1,
}


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path)


def write_data(root):
    """Write a data folder of eight utterances below `root`: a tone for each word."""
    folder = root / "data"
    folder.mkdir()
    audio, texts = [], []
    for number in range(8):
        words = [(number + shift) % 4 for shift in range(2)]
        signal_ = np.concatenate([np.sin(np.arange(8000) / 16000 * 2 * np.pi * TONES_HZ[word]) for word in words])
        soundfile.write(folder / f"u{number}.wav", 0.3 * signal_, 16000)
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
    train_base(data, data, config, out, **({"token_type": "char", "n_tokens": 0, "n_threads": 1} | options))


def names_and_weights(out):
    digest = hashlib.sha256((out / "valid.acc.ave.pth").read_bytes()).hexdigest()
    return sorted(path.name for path in out.iterdir()), digest


BPE = {"token_type": "bpe", "n_tokens": 16, "speed_factors": (0.9, 1.0, 1.1)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data, configuration and, in `one`, a base that one run trained; it is not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    write_data(folder)
    (folder / "train.yaml").write_text(yaml.safe_dump(CONFIG))
    train(folder / "data", folder / "train.yaml", folder / "one", **BPE)
    return folder


@pytest.mark.slow
def test_training_killed_at_an_epoch_and_resumed_leaves_what_one_run_leaves(trained, tmp_path):
    data, config = trained / "data", trained / "train.yaml"
    shutil.copytree(trained / "one" / "stats", tmp_path / "two" / "stats")  # saves a start of ESPnet
    call = (
        f"train_base(Path({str(data)!r}), Path({str(data)!r}), Path({str(config)!r}), Path({str(tmp_path / 'two')!r}),"
    )
    program = f"from pathlib import Path; from pqm_plugin.models.espnet.train import train_base; {call}"
    program += f"n_threads=1, **{BPE})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    killed = subprocess.Popen([sys.executable, "-c", program], env=environment)
    while killed.poll() is None and not (tmp_path / "two" / "checkpoint.pth").exists():
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()

    train(data, config, tmp_path / "two", **BPE)

    assert names_and_weights(tmp_path / "two") == names_and_weights(trained / "one")


@pytest.mark.slow
def test_a_trained_folder_can_be_moved_and_stock_espnet_finds_the_words_that_are_found_here(trained, tmp_path):
    moved = shutil.copytree(trained / "one", tmp_path / "moved")
    from espnet2.bin.asr_inference import Speech2Text

    recogniser = Speech2Text(
        moved / "config.yaml", moved / "valid.acc.ave.pth", bpemodel=str(moved / "bpe.model"), beam_size=2
    )

    ours = family_of(moved).load_float(moved, SearchOptions(beam_size=2, ctc_weight=0.5), "cpu")
    assert yaml.safe_load((moved / "config.yaml").read_text())["bpemodel"] == "bpe.model"
    assert str(trained / "one") not in (moved / "config.yaml").read_text()
    for number in range(2):
        speech, _ = soundfile.read(trained / f"data/u{number}.wav", dtype="float32")
        assert recogniser(speech)[0][0] == ours.recognize([speech])[0].text


@pytest.mark.slow
def test_what_espnet_says_when_it_stops_is_in_the_error(data, config, tmp_path):
    config.write_text(yaml.safe_dump(CONFIG | {"encoder_conf": CONFIG["encoder_conf"] | {"attention_heads": 3}}))

    with pytest.raises(PqmError, match=r"ESPnet stopped with status 1 \(.+\); see .*train.log"):
        train(data, config, tmp_path / "exp")


def finished(tmp_path, data, config):
    """A folder that says it is done, begun with `data` and `config`."""
    out = tmp_path / "exp"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pqm_plugin.models.espnet.train._collect_statistics", lambda run: None)
        patch.setattr("pqm_plugin.models.espnet.train._train", lambda run: (run.out / "valid.acc.ave.pth").touch())
        train(data, config, out)
    return out


def test_a_finished_folder_is_left_alone(data, config, tmp_path):
    out = finished(tmp_path, data, config)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}

    train(data, config, out)

    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_a_folder_begun_with_other_options_is_not_touched(data, config, tmp_path):
    out = finished(tmp_path, data, config)

    with pytest.raises(PqmError, match="trained with another n_tokens, seed"):
        train(data, config, out, n_tokens=5, seed=1)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("text", "u0 RED\nu1\n", r"text, line 2: nothing follows 'u1'"),
        ("text", "", "text is empty"),
        ("text", "u0 RED\nx9 RED\n", "differ in 8 utterances, the first is 'u1'"),
        ("wav.scp", "u0 sox a.wav - |\n", "write segments and pipes out as files first"),
        (
            "wav.scp",
            "".join(f"u{n} /nowhere/{n}.wav\n" for n in range(8)),
            "8 audio files are missing, the first is /now",
        ),
    ],
)
def test_a_data_folder_that_does_not_do_is_named(data, config, tmp_path, file, content, message):
    (data / file).write_text(content)

    with pytest.raises(PqmError, match=message):
        train(data, config, tmp_path / "exp")


def test_a_config_that_keeps_other_checkpoints_is_refused(data, config, tmp_path):
    config.write_text(yaml.safe_dump(CONFIG | {"best_model_criterion": [["valid", "loss", "min"]]}))

    with pytest.raises(PqmError, match=r"best_model_criterion must hold \[valid, acc, max\]"):
        train(data, config, tmp_path / "exp")

    assert not (tmp_path / "exp").exists()


def test_several_gpus_and_speeds_reach_espnets_launcher(data, config, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr("pqm_plugin.models.espnet.train._collect_statistics", lambda run: None)

    def espnet(run, arguments, ngpu=0):
        called.append((arguments, ngpu))
        (run.out / "valid.acc.ave.pth").touch()

    monkeypatch.setattr("pqm_plugin.models.espnet.train._espnet", espnet)

    train(data, config, tmp_path / "exp", ngpu=4, speed_factors=(0.9, 1.0, 1.1))

    [(arguments, ngpu)] = called
    assert ngpu == 4
    assert arguments[arguments.index("--multiprocessing_distributed") + 1] == "true"
    effects = next(word for word in arguments if word.startswith("data_aug_effects="))
    assert [effect[2]["factor"] for effect in yaml.safe_load(effects.partition("=")[2])] == [0.9, 1.0, 1.1]
