"""An adapter of a speaker is an ordinary PEFT folder: plain peft on the plain model says the same words."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from pqm_plugin.adapters.bank import AdapterBank
from pqm_plugin.adapters.files import AdapterInfo, save_adapter
from pqm_plugin.adapters.lora import attach
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions

PLAIN = """
import json, sys
import numpy as np
from peft import PeftModel
from transformers import WhisperForConditionalGeneration, WhisperProcessor

base, clips, *adapters = sys.argv[1:]
processor = WhisperProcessor.from_pretrained(base)
for adapter in adapters:
    model = PeftModel.from_pretrained(WhisperForConditionalGeneration.from_pretrained(base), adapter).eval()
    words = []
    for clip in np.load(clips):
        features = processor(clip, sampling_rate=16000, return_tensors="pt").input_features
        ids = model.generate(input_features=features, num_beams=2, return_timestamps=False)
        words.append(" ".join(processor.batch_decode(ids, skip_special_tokens=True)[0].split()))
    print(json.dumps(words))
assert not any(name.startswith("pqm_plugin") for name in sys.modules)
"""


PRESETS = ("qv", "attention", "all_linear")


@pytest.mark.slow
def test_plain_peft_on_the_plain_model_says_the_words_of_the_unquantised_base_with_the_adapter_here(
    tiny_whisper, tmp_path
):
    family, search = family_of(tiny_whisper), SearchOptions(beam_size=2)
    for preset in PRESETS:
        recognizer = family.load_float(tiny_whisper, search, "cpu")
        model = attach(recognizer.network, recognizer.adapter_targets(preset), rank=2, alpha=4, dropout=0.0)
        torch.manual_seed(0)
        with torch.no_grad():
            for name, value in model.named_parameters():
                if "lora_" in name:
                    value.normal_(std=0.7)
        save_adapter(tmp_path / preset, model, AdapterInfo("abc", "ada", 1, 100, 3))
    clips = np.random.default_rng(0).normal(size=(3, 16000)).astype("float32") * 0.1
    np.save(tmp_path / "clips.npy", clips)

    command = [sys.executable, "-c", PLAIN, tiny_whisper, tmp_path / "clips.npy", *map(tmp_path.joinpath, PRESETS)]
    plain = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, cwd=tmp_path)
    assert plain.returncode == 0, plain.stderr

    ours = family.load_float(tiny_whisper, search, "cpu")
    ours.network.eval()
    without = [found.text for found in ours.recognize(list(clips))]
    for preset, said in zip(PRESETS, plain.stdout.splitlines(), strict=True):
        with AdapterBank(ours.network, "abc").rows([tmp_path / preset]):
            words = [found.text for found in ours.recognize(list(clips))]
        assert json.loads(said) == words, preset
        assert words != without
