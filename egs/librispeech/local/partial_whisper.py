"""Whisper tiny.en without its token embedding, read; a Hugging Face folder with one, written and scored."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from embedding_learner import MAX_TOKENS, Learner, whisper_config
from encoded_speech import MEL_BINS, SAMPLE_RATE, Utterance, read_audio
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import GenerationConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer
from word_vocabulary import END, NO_TIMESTAMPS, START, Vocabulary

from pqm_plugin.errors import PqmError
from pqm_plugin.files import whole_folder
from pqm_plugin.models.whisper_openai import renamed

_WEIGHTS = "model_f16.safetensors"
_ALIGNMENT_HEADS = [[1, 0], [2, 0], [2, 5], [3, 0], [3, 1], [3, 2], [3, 3], [3, 4]]  # as published for tiny.en


def read_tensors(partial: Path, shuffle_decoder: int | None = None) -> dict[str, Tensor]:
    """The tensors of `partial` in float32, named `encoder.` and `decoder.` as in transformers.

    Args:
        shuffle_decoder: seed of a control: every matrix of the decoder has the same values in another order.

    Raises:
        PqmError: if the file is missing or damaged.
    """
    path = partial / _WEIGHTS
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise PqmError(f"{path} cannot be read ({error}): --partial names the folder that holds it") from error
    tensors = {name.removeprefix("model."): value.float() for name, value in renamed(stored).items()}
    if shuffle_decoder is not None:
        generator = torch.Generator().manual_seed(shuffle_decoder)
        for name, value in tensors.items():
            if name.startswith("decoder.") and value.dim() == 2 and "embed_positions" not in name:
                tensors[name] = value.flatten()[torch.randperm(value.numel(), generator=generator)].view_as(value)
    return tensors


def check_out(out: Path) -> None:
    """See before the training whether the folder may be written.

    Raises:
        PqmError: if something is there that is no model.
    """
    if out.exists() and not (out / "config.json").is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise PqmError(f"{out} is there and is no model: delete it or name another --out")


def write_model(out: Path, learner: Learner, tensors: Mapping[str, Tensor], vocabulary: Vocabulary) -> None:
    """Write a folder for `WhisperForConditionalGeneration`, with tokenizer and features; an older one is replaced."""
    model = WhisperForConditionalGeneration(whisper_config(vocabulary)).eval()
    state = {f"model.{name}": value for name, value in tensors.items() if name.startswith("encoder.")}
    state |= {f"model.decoder.{name}": value for name, value in learner.decoder.state_dict().items()}
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    model.load_state_dict(state)
    model.tie_weights()
    model.generation_config = _generation_config(vocabulary)
    with whole_folder(out) as folder:
        model.float().save_pretrained(folder)
        vocabulary.write(folder)
        WhisperFeatureExtractor(feature_size=MEL_BINS).save_pretrained(folder)


def score(folder: Path, utterances: Sequence[Utterance]) -> tuple[float, list[tuple[str, str]]]:
    """Decode greedily with plain transformers: WER in percent after Whisper's normaliser, and (said, heard) words."""
    import jiwer
    from whisper_normalizer.english import EnglishTextNormalizer

    model, normalize = WhisperForConditionalGeneration.from_pretrained(folder).eval(), EnglishTextNormalizer()
    tokenizer, features = WhisperTokenizer.from_pretrained(folder), WhisperFeatureExtractor.from_pretrained(folder)
    lines = []
    for utterance in utterances:
        audio = read_audio(utterance.flac)
        mel = features(audio, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        with torch.inference_mode():
            ids = model.generate(mel, do_sample=False, num_beams=1, max_new_tokens=200)
        lines.append((" ".join(utterance.words), tokenizer.decode(ids[0], skip_special_tokens=True).strip()))
    wer = jiwer.wer([normalize(said) for said, _ in lines], [normalize(heard) for _, heard in lines])
    return 100 * wer, lines


def _generation_config(vocabulary: Vocabulary) -> GenerationConfig:
    end, start, no_timestamps = (vocabulary.special[name] for name in (END, START, NO_TIMESTAMPS))
    return GenerationConfig(
        decoder_start_token_id=start,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        max_length=MAX_TOKENS,
        is_multilingual=False,
        no_timestamps_token_id=no_timestamps,
        suppress_tokens=[*vocabulary.unlearned, start, no_timestamps],
        begin_suppress_tokens=[end],
        return_timestamps=False,
        alignment_heads=_ALIGNMENT_HEADS,
    )
