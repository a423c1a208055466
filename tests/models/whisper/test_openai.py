"""Checkpoints of openai-whisper become Hugging Face folders that compute what openai-whisper computes."""

import json

import pytest
import torch

from pqm_plugin.errors import PqmError
from pqm_plugin.models.families import family_of, fetch_base
from pqm_plugin.models.options import SearchOptions

whisper_model = pytest.importorskip("whisper.model")
TINY = {"n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": 16, "n_audio_head": 2, "n_audio_layer": 2} | {
    **{"n_vocab": 51864, "n_text_ctx": 448, "n_text_state": 16, "n_text_head": 2, "n_text_layer": 1},
}
EMBEDDING = "decoder.token_embedding.weight"
CLIP = "data/LibriSpeech/dev-clean/1272/128104/1272-128104-0000.flac"
TEXTS = [" Mr. Quilter is the apostle", " größe 100 %, isn't it?", " naïve 東京", "  two   blanks"]


def checkpoint(path, dims, state=None):
    """A `.pt` file as openai-whisper publishes them: dimensions and float16 tensors."""
    model = whisper_model.Whisper(whisper_model.ModelDimensions(**dims))
    if state is None:
        torch.manual_seed(0)
        state = {name: torch.randn_like(value) * 0.1 for name, value in model.state_dict().items()}
        state["encoder.positional_embedding"] = model.encoder.positional_embedding
    model.load_state_dict(state)
    halves = {name: value.half() for name, value in model.state_dict().items()}
    torch.save({"dims": dims, "model_state_dict": halves}, path)
    model.load_state_dict({name: value.float() for name, value in halves.items()})
    return model.eval()


@pytest.fixture(scope="module")
def english(tmp_path_factory):
    """openai-whisper's own model, and the folder that was made of its checkpoint."""
    folder = tmp_path_factory.mktemp("openai")
    model = checkpoint(folder / "tiny.en.pt", TINY)
    fetch_base(str(folder / "tiny.en.pt"), folder / "base")
    return model, folder / "base"


def compare(model, folder, n_frames=3000):
    """Largest difference in the encoder's output and in the decoder's logits, relative to their size."""
    recognizer = family_of(folder).load_float(folder, SearchOptions(), "cpu")
    network = recognizer.network.eval()
    torch.manual_seed(1)
    mel, ids = torch.randn(1, model.dims.n_mels, n_frames), torch.randint(0, 50000, (1, 7))
    with torch.no_grad():
        encoded = model.encoder(mel)
        ours = network.model.encoder(mel).last_hidden_state
        logits = model.decoder(ids, encoded)
        found = network(encoder_outputs=(encoded,), decoder_input_ids=ids).logits
    return float((ours - encoded).abs().max() / encoded.abs().max()), float(
        (found - logits).abs().max() / logits.abs().max()
    )


@pytest.mark.slow
def test_encoder_and_decoder_compute_what_openai_whisper_computes(english):
    assert max(compare(*english)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("n_vocab", "multilingual"), [(51864, False), (51865, True), (51866, True)])
def test_the_vocabulary_and_the_prompt_are_those_of_openai_whisper(n_vocab, multilingual, tmp_path):
    from transformers import WhisperProcessor
    from whisper.tokenizer import get_tokenizer

    checkpoint(tmp_path / "model.pt", TINY | {"n_vocab": n_vocab})
    fetch_base(str(tmp_path / "model.pt"), tmp_path / "base")
    spoken = "de" if multilingual else "en"
    n_languages = n_vocab - 51765 - multilingual
    theirs = get_tokenizer(multilingual, num_languages=n_languages, language=spoken, task="transcribe")
    ours = WhisperProcessor.from_pretrained(tmp_path / "base").tokenizer

    assert [ours(text, add_special_tokens=False).input_ids for text in TEXTS] == [theirs.encode(text) for text in TEXTS]
    assert [ours.decode(theirs.encode(text)) for text in TEXTS] == TEXTS
    recognizer = family_of(tmp_path / "base").load_float(tmp_path / "base", SearchOptions(language=spoken), "cpu")
    assert recognizer._prompt.tokens == tuple(theirs.sot_sequence_including_notimestamps)
    assert recognizer._prompt.end == theirs.eot
    config = json.loads((tmp_path / "base/generation_config.json").read_text())
    assert set(config["suppress_tokens"]) >= set(theirs.non_speech_tokens)


@pytest.mark.slow
def test_a_folder_made_of_a_checkpoint_loads_in_plain_transformers(english):
    from transformers import WhisperForConditionalGeneration

    _, folder = english
    network, notes = WhisperForConditionalGeneration.from_pretrained(folder, output_loading_info=True)

    assert not any(notes.get(key) for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert network.generation_config.no_timestamps_token_id == 50362


def test_what_is_no_checkpoint_of_openai_whisper_is_named(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    for name, content, message in (
        ("evil.pt", {"dims": Evil()}, "damaged or not a plain checkpoint"),
        ("other.pt", {"state": torch.zeros(1)}, "lacks dims or model_state_dict"),
        ("short.pt", {"dims": {"n_vocab": 51864}, "model_state_dict": {}}, "its dims lack 'n_audio_state'"),
    ):
        torch.save(content, tmp_path / name)
        with pytest.raises(PqmError, match=message):
            fetch_base(str(tmp_path / name), tmp_path / "out")
