"""What an earlier version left on disk, made by that version itself and kept here for `tests/test_old_artefacts.py`.

`PYTHONPATH=CHECKOUT python make.py OUT`, with a checkout of the earlier version, writes for each family a recipe's
folders, a personal model whose speaker is enrolled, and a pack of it, as `OUT/<family>.tar.xz`; those beside this file
are of commit d787e68. All paths in them are relative to the working folder of whoever makes or uses them. The
recordings are not kept: `write_recordings` makes the same bytes again.
"""

import json
import os
import shutil
import sys
import tarfile
import wave
from array import array
from pathlib import Path

RATE = 16000
WORDS = {"10": ["GO", "NO", "STOP"], "20": ["NO", "GO", "STOP"], "30": ["GO", "STOP"], "40": ["STOP", "GO"]}
SPLITS = ("train", "dev", "test")
SAT = {"30": "sat_train", "40": "sat_dev"}
CONFIG = """
quantize: {keep: [embedding], calibrate: 2}
lora: {rank: 1, alpha: 4, max_fraction: 0.9}
pretrain: {epochs: 1, learning_rate: 0.01}
adapt: {epochs: 1, learning_rate: 0.01}
decode: {beam_size: 2, ctc_weight: 0.5}
"""
SYSTEMS = ("nf4", "nf4+sat", "nf4+speaker")
STAGES = ("base", "quantize", "pretrain", "adapt", "decode")
ENROLLED = ("10-1-0000", "10-1-0001", "10-1-0002")
OPTIONS = {"rank": 1, "epochs": 1, "learning_rate": 0.01}
LICENCE = "CC0"


def names():
    """Return every utterance: its name, speaker, words and split."""
    return [
        (f"{speaker}-1-{place:04d}", speaker, words, SAT.get(speaker, SPLITS[place]))
        for speaker, texts in WORDS.items()
        for place, words in enumerate(texts)
    ]


def write_recordings(folder):
    """Write three quarters of a second of two tones in noise for each utterance; integers alone decide the bytes."""
    folder.mkdir(parents=True)
    for place, (utterance, *_) in enumerate(names()):
        chance, samples = place + 1, array("h")
        for at in range(3 * RATE // 4):
            chance = (1103515245 * chance + 12345) % 2**31
            tones = (at * (7 + place)) % 160 * 20 - 1600 + (at * (3 + 2 * place)) % 101 * 15 - 750
            samples.append(tones + chance // 2**20 - 1024)
        with wave.open(str(folder / f"{utterance}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(samples.tobytes())


def recipe():
    """Return the recipe of the working folder."""
    from pqm_plugin.stages.recipe import Recipe

    return Recipe(
        base="tiny",
        target_set="dev",
        sat_sets=("sat",),
        systems=SYSTEMS,
        pqm_config=Path("pqm.yaml"),
        nj=1,
        inference_nj=1,
        command="make.py",
    )


def make_conformer(folder):
    """Write a genuine ESPnet Conformer AED of a few thousand random weights."""
    import torch
    import yaml
    from espnet2.tasks.asr import ASRTask

    tokens = ["<blank>", "<unk>", "<space>", *"GNOPST", "<sos/eos>"]
    small = {"attention_heads": 2, "linear_units": 8, "num_blocks": 1}
    config = {
        **{"token_list": tokens, "token_type": "char", "init": None, "specaug": None},
        **{"frontend": "default", "frontend_conf": {"fs": "16k", "n_mels": 20, "hop_length": 160}},
        **{"normalize": "utterance_mvn", "normalize_conf": {}, "model": "espnet", "model_conf": {"ctc_weight": 0.3}},
        **{"encoder": "conformer", "decoder": "transformer", "decoder_conf": small},
        "encoder_conf": {
            **small,
            **{"output_size": 8, "macaron_style": True, "use_cnn_module": True, "cnn_module_kernel": 7},
            **{"pos_enc_layer_type": "rel_pos", "selfattention_layer_type": "rel_selfattn", "rel_pos_type": "latest"},
        },
    }
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(ASRTask.get_default_config() | config))
    (folder / "tokens.txt").write_text("\n".join(tokens) + "\n")
    torch.manual_seed(0)
    model, _ = ASRTask.build_model_from_file(folder / "config.yaml", None, "cpu")
    torch.save(model.state_dict(), folder / "valid.acc.ave.pth")


def make_whisper(folder):
    """Write a genuine Whisper of a few thousand random weights, bytes as tokens and a window of a second."""
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    folder.mkdir(parents=True)
    tokenizer = WhisperTokenizer({char: place for place, char in enumerate(bytes_to_unicode().values())}, merges=[])
    tokenizer.add_tokens(["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=20, chunk_length=1).save_pretrained(folder)
    layers = {"layers": 1, "attention_heads": 2, "ffn_dim": 12}
    config = WhisperConfig(
        **{"vocab_size": len(tokenizer), "num_mel_bins": 20, "d_model": 8, "init_std": 0.3},
        **{"max_source_positions": 50, "max_target_positions": 16, "decoder_start_token_id": 257},
        **{"suppress_tokens": None, "begin_suppress_tokens": None},
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 256),
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in layers.items()},
    )
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config)
    vars(model.generation_config).update(
        _from_model_config=False,
        no_timestamps_token_id=258,
        max_length=16,
        is_multilingual=False,
        return_timestamps=False,
    )
    model.save_pretrained(folder)


def words_of(folder):
    """Return what a personal model finds in each recording, without an adapter and with Ada's."""
    from pqm_plugin.models.options import SearchOptions
    from pqm_plugin.personal.model import PersonalModel

    model = PersonalModel(folder, SearchOptions(beam_size=2))
    return {
        name: [model.transcribe(Path(f"audio/{name}.wav"), speaker).text for speaker in (None, "ada")]
        for name, *_ in names()
    }


def make(folder, make_base):
    """Run the recipe, then make, enrol and pack the personal model, all in `folder`."""
    from pqm_plugin.corpus.kaldi import write_data_folder
    from pqm_plugin.corpus.partition import Partition, Row
    from pqm_plugin.corpus.utterance import Utterance
    from pqm_plugin.personal.making import quantize
    from pqm_plugin.personal.model import PersonalModel
    from pqm_plugin.personal.options import EnrollOptions
    from pqm_plugin.personal.packing import pack
    from pqm_plugin.stages import run_stage

    folder.mkdir(parents=True)
    os.chdir(folder)
    write_recordings(Path("audio"))
    Path("pqm.yaml").write_text(CONFIG)
    made = recipe()
    spoken = [Utterance(name, speaker, words, f"audio/{name}.wav") for name, speaker, words, _ in names()]
    for set_name, in_sat in (("dev", False), ("sat", True)):
        write_data_folder(made.data(set_name), [one for one in spoken if (one.speaker in SAT) == in_sat])
    rows = [Row(name, speaker, "sat" if speaker in SAT else "dev", split) for name, speaker, _, split in names()]
    Partition(tuple(sorted(rows, key=lambda row: (row.split, row.utterance)))).write(made.partition_file)
    make_base(Path(made.base))
    for stage in STAGES:
        run_stage(stage, made)
    quantize(str(made.base_dir), Path("voice"), licence=LICENCE)
    texts = {name: words for name, _, words, _ in names()}
    paths, options = [Path(f"audio/{name}.wav") for name in ENROLLED], EnrollOptions(**OPTIONS)
    PersonalModel("voice").enroll("ada", paths, [texts[name] for name in ENROLLED], options=options)
    Path("words.json").write_text(json.dumps(words_of("voice")))
    pack("voice", "voice.pqm")
    # The base is in exp/, too.
    shutil.rmtree("tiny")
    shutil.rmtree("audio")
    for path in [*Path().rglob("log"), *Path().rglob(".*.lock")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def main():
    """Make both families in the folder that is named."""
    out = Path(sys.argv[1]).resolve()
    for family, make_base in (("conformer", make_conformer), ("whisper", make_whisper)):
        make(out / family, make_base)
        with tarfile.open(out / f"{family}.tar.xz", "w:xz") as archive:
            archive.add(out / family, ".", filter=_nobody_s)


def _nobody_s(entry):
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main()
