"""`pqm export`: other tools load what it writes, and write the words that the personal model writes."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from pqm_plugin.adapters.files import AdapterInfo, save_adapter
from pqm_plugin.adapters.lora import attach
from pqm_plugin.commands.__main__ import main
from pqm_plugin.engine.packing import open_float
from pqm_plugin.errors import PqmError
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal.exchange import export
from pqm_plugin.personal.folder import ModelFolder
from pqm_plugin.personal.making import quantize
from pqm_plugin.personal.model import PersonalModel

SEARCH = SearchOptions(beam_size=2, guard="never")


def sound(seed=0, n_samples=16000):
    return np.random.default_rng(seed).normal(0, 0.1, n_samples).astype("float32")


def with_speaker(folder, preset="attention", speaker="ada", targets=(), std=0.7, rank=2):
    """Give a personal model a speaker whose adapter is random and large, so that its words are others."""
    model = PersonalModel(folder, SEARCH)
    network = model.recognizer.network
    torch.manual_seed(3)
    adapted = attach(network, targets or model.recognizer.adapter_targets(preset), rank, 4, 0.0)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if "lora_" in name:
                value.normal_(std=std)
    save_adapter(folder / "speakers" / speaker, adapted, AdapterInfo(ModelFolder.of(folder).intact(), speaker, 1, 1, 0))
    return folder


def words(folder, speaker=None, search=SEARCH):
    model = PersonalModel(folder, search)
    adapter = model.folder.known_speaker(speaker) if speaker else None
    return [model.search([sound(seed)], [adapter], "en")[0].text for seed in range(3)]


def float_words(folder):
    recognizer = open_float(folder, SEARCH)
    with torch.no_grad():
        return [recognizer.recognize([sound(seed)])[0].text for seed in range(3)]


def by_transformers(folder, **options):
    """Words by transformers alone."""
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

    network = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    tokenizer = WhisperTokenizer.from_pretrained(folder)
    found = []
    for seed in range(3):
        features = extractor(sound(seed), sampling_rate=16000, return_tensors="pt").input_features
        [ids] = network.generate(features, num_beams=2, **options)
        found.append(" ".join(tokenizer.decode(ids, skip_special_tokens=True).split()))
    return found


@pytest.mark.parametrize("preset", ["attention", "all_linear_and_conv"])
def test_transformers_writes_the_words_of_the_speaker(whisper, tmp_path, capsys, preset):
    with_speaker(whisper, preset)

    assert main(["export", str(whisper), str(tmp_path / "out"), "--speaker", "ada", "--to", "huggingface"]) == 0

    assert "base: the 4-bit weights, unpacked to float32; adapter: speakers/ada" in capsys.readouterr().out
    expected = words(whisper, "ada")
    assert by_transformers(tmp_path / "out") == expected != words(whisper)
    assert json.loads((tmp_path / "out/pqm_export.json").read_text())["adapter"] == "speakers/ada"


def test_without_a_speaker_the_unpacked_weights_are_those_that_the_model_computes_with(folder, tmp_path):
    tool = "huggingface" if "huggingface" in family_of(folder).EXPORTS else "espnet"

    export(folder, tmp_path / "out", tool)

    assert float_words(tmp_path / "out") == words(folder)


def test_the_adapter_goes_into_the_float_base_where_one_is_given_and_another_base_is_refused(
    whisper, tiny_whisper, tmp_path
):
    with_speaker(whisper)

    done = export(whisper, tmp_path / "out", "huggingface", "ada", str(tiny_whisper))

    assert done.base == f"the float weights of {tiny_whisper}"
    layer = "model.decoder.layers.0.self_attn.q_proj"
    adapter = load_file(whisper / "speakers/ada/adapter_model.safetensors")
    down, up = (adapter[f"base_model.model.{layer}.lora_{part}.weight"] for part in "AB")
    before, after = (load_file(path / "model.safetensors") for path in (tiny_whisper, tmp_path / "out"))
    torch.testing.assert_close(after[f"{layer}.weight"], before[f"{layer}.weight"] + 2 * up @ down)
    assert torch.equal(after["model.decoder.layers.0.fc1.weight"], before["model.decoder.layers.0.fc1.weight"])
    other = shutil.copytree(tiny_whisper, tmp_path / "other")
    (other / "model.safetensors").write_bytes((tmp_path / "out/model.safetensors").read_bytes())
    with pytest.raises(PqmError, match="is another model than the one that"):
        export(whisper, tmp_path / "more", "huggingface", "ada", str(other))
    assert not (tmp_path / "more").exists()


def test_a_weight_that_two_layers_share_is_not_changed_for_both_and_it_is_said(whisper, tmp_path):
    with_speaker(whisper, targets=["proj_out"], std=1.0)

    done = export(whisper, tmp_path / "out", "huggingface", "ada")

    assert "proj_out shared its weight with model.decoder.embed_tokens and has its own now" in " ".join(done.notes)
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is False
    plain = export(whisper, tmp_path / "plain", "huggingface", plain=True).folder
    before, after = (load_file(path / "model.safetensors") for path in (plain, tmp_path / "out"))
    embedding = "model.decoder.embed_tokens.weight"
    assert torch.equal(before[embedding], after[embedding]) and "proj_out.weight" not in before
    assert by_transformers(tmp_path / "out") == words(whisper, "ada")


def test_espnet_itself_writes_the_words_of_the_speaker(conformer, tmp_path, monkeypatch):
    from espnet2.bin.asr_inference import Speech2Text

    with_speaker(conformer, "all_linear", std=0.2)

    export(conformer, tmp_path / "out", "espnet", "ada")

    monkeypatch.chdir(tmp_path)
    heard = Speech2Text("out/config.yaml", "out/valid.acc.ave.pth", beam_size=2, ctc_weight=SEARCH.ctc_weight)
    found = [heard(sound(seed))[0][0] for seed in range(3)]
    assert found == words(conformer, "ada") != words(conformer)


def test_transformers_loads_a_ctc_model_with_its_weight_normalisation(packed, tiny_ctc, tmp_path):
    from transformers import AutoModelForCTC

    folder = with_speaker(shutil.copytree(packed(tiny_ctc), tmp_path / "ctc"))

    export(folder, tmp_path / "out", "huggingface", "ada")

    network, info = AutoModelForCTC.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert float_words(tmp_path / "out") == words(folder, "ada") != words(folder)


@pytest.mark.slow
def test_ctranslate2_and_faster_whisper_write_the_words_of_the_speaker(tiny_multilingual, tmp_path):
    ctranslate2 = pytest.importorskip("ctranslate2")
    faster_whisper = pytest.importorskip("faster_whisper")
    quantize(str(tiny_multilingual), tmp_path / "packed")
    folder = with_speaker(tmp_path / "packed")

    export(folder, tmp_path / "out", "faster-whisper", "ada")

    model = PersonalModel(folder, SEARCH)
    recognizer = model.recognizer
    loaded = faster_whisper.WhisperModel(str(tmp_path / "out"), device="cpu", compute_type="float32")
    tokenizer = loaded.hf_tokenizer
    prompt = [
        tokenizer.token_to_id(f"<|{name}|>") for name in ("startoftranscript", "en", "transcribe", "notimestamps")
    ]
    for seed in range(3):
        with model.using(model.folder.known_speaker("ada")), torch.no_grad():
            [expected] = recognizer._attempts(recognizer._encode([recognizer.features(sound(seed))]), 1)
        padded = np.zeros(32000, "float32")
        padded[:16000] = sound(seed)
        mel = loaded.feature_extractor(padded, padding=0)[..., :200].astype("float32")
        features = ctranslate2.StorageView.from_array(mel[None])
        [best] = loaded.model.generate(features, [prompt], beam_size=1, max_length=24, suppress_tokens=[])
        # It writes half of the positions at most, and of wider beams each tool has its own end.
        found = best.sequences_ids[0]
        assert len(found) >= 8 and found == expected.tokens.tolist()[: len(found)]


def test_the_adapter_for_vllm_is_as_its_loader_wants_it_and_peft_adds_the_same(whisper, tmp_path, capsys):
    from peft import PeftModel
    from transformers import WhisperForConditionalGeneration

    with_speaker(whisper, "all_linear", rank=12)
    assert main(["export", str(whisper), str(tmp_path / "out"), "--speaker", "ada", "--to", "vllm"]) == 0
    assert "--enable-lora --max-lora-rank 16 on the model of" in capsys.readouterr().out

    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    tensors = load_file(tmp_path / "out/adapter_model.safetensors")

    # What vLLM's PEFTHelper and LoRAModel ask for.
    assert (config["r"], config["lora_alpha"], config["bias"], config["modules_to_save"]) == (12, 4, "none", None)
    assert not config["use_dora"] and not config["use_rslora"] and "rank_pattern" not in config
    fused = {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}
    for name, tensor in tensors.items():
        place, factor = re.fullmatch(r"base_model\.model\.(model\..*)\.lora_([AB])\.weight", name).groups()
        assert place.rpartition(".")[2] in fused
        assert tensor.dim() == 2 and tensor.shape[0 if factor == "A" else 1] == 12
    export(whisper, tmp_path / "base", "huggingface", plain=True)
    export(whisper, tmp_path / "merged", "huggingface", "ada")
    network = WhisperForConditionalGeneration.from_pretrained(tmp_path / "base")
    merged = PeftModel.from_pretrained(network, tmp_path / "out").merge_and_unload().state_dict()
    for name, value in load_file(tmp_path / "merged/model.safetensors").items():
        torch.testing.assert_close(merged[name], value, rtol=1e-4, atol=1e-5)


def test_what_a_tool_does_not_take_is_one_line(whisper, conformer, tmp_path, capsys):
    with_speaker(whisper, "all_linear_and_conv")
    for model, tool, options, message in (
        (whisper, "vllm", ["--speaker", "ada"], r"adapts model\.encoder\.conv1, where vLLM takes no LoRA"),
        (whisper, "vllm", [], "there is no adapter to export"),
        (whisper, "espnet", [], "a model of Whisper is not exported so: there are huggingface, faster-whisper, vllm"),
        (conformer, "huggingface", [], "a model of ESPnet AED is not exported so: there are espnet"),
        (whisper, "huggingface", ["--speaker", "bob"], "has no speaker 'bob'"),
    ):
        assert main(["export", str(model), str(tmp_path / "out"), "--to", tool, *options]) == 1
        said = capsys.readouterr().err
        assert re.search(message, said) and said.count("\n") == 1
        assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    assert main(["export", str(whisper), str(tmp_path / "out"), "--to", "huggingface"]) == 1
    assert "is there already" in capsys.readouterr().err


@pytest.mark.real
@pytest.mark.slow
def test_faster_whisper_hears_speech_as_the_model_does(shared, tmp_path):
    faster_whisper = pytest.importorskip("faster_whisper")
    if not os.environ.get("PQM_WHISPER"):
        pytest.skip("PQM_WHISPER names no folder of a genuine Whisper model")
    quantize(os.environ["PQM_WHISPER"], tmp_path / "packed")
    export(tmp_path / "packed", tmp_path / "out", "faster-whisper")
    clips = sorted((shared / "data/LibriSpeech/dev-clean/1272/128104").glob("*.flac"))[:4]

    model = PersonalModel(tmp_path / "packed", SearchOptions(beam_size=1, guard="never"))
    theirs = faster_whisper.WhisperModel(str(tmp_path / "out"), device="cpu", compute_type="float32")

    for clip in clips:
        # An array, for faster-whisper 1.2 opens no file with PyAV 19.
        samples, _ = soundfile.read(clip, dtype="float32")
        segments, _ = theirs.transcribe(samples, language="en", beam_size=1, without_timestamps=True, temperature=0.0)
        found = "".join(segment.text for segment in segments)
        assert re.findall(r"[\w']+", found) == re.findall(r"[\w']+", model.transcribe(clip).text)
