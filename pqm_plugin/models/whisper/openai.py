"""Checkpoints of the openai-whisper package (`.pt`), made a Hugging Face folder."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AddedToken, WhisperConfig, WhisperFeatureExtractor, WhisperTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from pqm_plugin.errors import PqmError
from pqm_plugin.files import write_json
from pqm_plugin.models.whisper import folder as whisper_folder

# In this order: a layer's names, then those of the whole.
_NAMES = (
    (r"\.blocks\.", ".layers."),
    (r"\.cross_attn_ln\.", ".encoder_attn_layer_norm."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.mlp_ln\.", ".final_layer_norm."),
    (r"\.cross_attn\.", ".encoder_attn."),
    (r"\.attn\.", ".self_attn."),
    (r"\.query\.", ".q_proj."),
    (r"\.key\.", ".k_proj."),
    (r"\.value\.", ".v_proj."),
    (r"\.out\.", ".out_proj."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.2\.", ".fc2."),
    (r"\.ln_post\.", ".layer_norm."),
    (r"^decoder\.ln\.", "decoder.layer_norm."),
    (r"\.token_embedding\.", ".embed_tokens."),
    (r"\.positional_embedding$", ".embed_positions.weight"),
)
_ENGLISH_ONLY = 51864  # the vocabulary of the models whose name ends in .en
_WINDOW_S = 30
_LANGUAGE = re.compile(r"<\|[a-z]{2,3}\|>")


def convert(path: Path, out: Path) -> None:
    """Write the model of a `.pt` file as a Hugging Face folder in float32.

    The file holds no vocabulary; that comes from the openai-whisper package.

    Raises:
        PqmError: if the file is damaged or no Whisper model, or the package is not installed.
    """
    loaded = whisper_folder.read_checkpoint(path)
    dims, state = loaded.get("dims"), loaded.get("model_state_dict")
    if not isinstance(dims, Mapping) or not isinstance(state, Mapping):
        raise PqmError(f"{path} is no checkpoint of openai-whisper: it lacks dims or model_state_dict")
    try:
        tokenizer = _published_tokenizer(dims["n_vocab"], path)
        config = config_of(dims, tokenizer.eot)
    except KeyError as error:
        raise PqmError(f"{path}: its dims lack {error}") from error
    out.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(tokenizer.encoding, out)
    architecture = {"architectures": ["WhisperForConditionalGeneration"]}
    write_json(out / whisper_folder.CONFIG, config.to_diff_dict() | architecture)
    write_json(out / "generation_config.json", _generation_config(config, tokenizer))
    WhisperFeatureExtractor(feature_size=config.num_mel_bins, chunk_length=_WINDOW_S).save_pretrained(out)
    whisper_folder.write_weights(out / whisper_folder.WEIGHTS, renamed(state))


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an openai-whisper model under the names of `WhisperForConditionalGeneration`."""
    result = {}
    for name, value in state.items():
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        result[f"model.{name}"] = value
    return result


def config_of(dims: Mapping[str, int], end: int) -> WhisperConfig:
    """The configuration of an openai-whisper model of these dimensions, whose end-of-text token is `end`."""
    width = dims["n_audio_state"]
    return WhisperConfig(
        vocab_size=dims["n_vocab"],
        num_mel_bins=dims["n_mels"],
        d_model=width,
        encoder_layers=dims["n_audio_layer"],
        encoder_attention_heads=dims["n_audio_head"],
        encoder_ffn_dim=4 * width,
        decoder_layers=dims["n_text_layer"],
        decoder_attention_heads=dims["n_text_head"],
        decoder_ffn_dim=4 * width,
        max_source_positions=dims["n_audio_ctx"],
        max_target_positions=dims["n_text_ctx"],
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=end + 1,
    )


def _published_tokenizer(n_vocab: int, path: Path) -> Any:
    """The vocabulary that openai-whisper ships."""
    try:
        from whisper.tokenizer import get_tokenizer
    except ImportError as error:
        raise PqmError(
            f"{path} holds no vocabulary: run `pip install 'pqm_plugin[whisper]'`, which brings openai-whisper's, or "
            "give the model as a Hugging Face folder"
        ) from error
    multilingual = n_vocab > _ENGLISH_ONLY
    tokenizer = get_tokenizer(multilingual, num_languages=n_vocab - 51765 - int(multilingual))
    if tokenizer.encoding.n_vocab != n_vocab:
        raise PqmError(f"{path} has {n_vocab} tokens, the published vocabulary {tokenizer.encoding.n_vocab}")
    return tokenizer


def _write_tokenizer(encoding: Any, out: Path) -> None:
    ranks: dict[bytes, int] = encoding._mergeable_ranks
    symbols = bytes_to_unicode()
    spelled = {token: "".join(symbols[byte] for byte in token) for token in ranks}
    merges = [
        (spelled[left], spelled[right])
        for token in sorted(ranks, key=ranks.__getitem__)
        if len(token) > 1
        for left, right in [_halves(token, ranks)]
    ]
    vocabulary = {text: ranks[token] for token, text in spelled.items()}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=merges)
    specials = sorted(encoding._special_tokens, key=encoding._special_tokens.__getitem__)
    # Timestamps are written like any text, the others are left out of it.
    timed = [AddedToken(name, normalized=False, special=False) for name in specials if name[2].isdigit()]
    named = [AddedToken(name, normalized=False, special=True) for name in specials if not name[2].isdigit()]
    tokenizer.add_tokens(named, special_tokens=True)
    tokenizer.add_tokens(timed)
    tokenizer.save_pretrained(out)


def _halves(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """The last merge that makes `token`: byte pair encoding with the merges of lower rank ends in two parts."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        pairs = [ranks.get(left + right, len(ranks)) for left, right in zip(parts, parts[1:], strict=False)]
        place = pairs.index(min(pairs))
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts[0], parts[1]


def _generation_config(config: WhisperConfig, tokenizer: Any) -> dict[str, Any]:
    """As the published models have it: no timestamps, tokens that are no speech suppressed."""
    specials: dict[str, int] = tokenizer.encoding._special_tokens
    never = ("translate", "transcribe", "startoftranscript", "startofprev", "startoflm", "nospeech")
    suppressed = {*tokenizer.non_speech_tokens, *(specials[f"<|{name}|>"] for name in never)}
    values: dict[str, Any] = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "decoder_start_token_id": config.decoder_start_token_id,
        "no_timestamps_token_id": specials["<|notimestamps|>"],
        "prev_sot_token_id": specials["<|startofprev|>"],
        "begin_suppress_tokens": [*tokenizer.encoding.encode(" "), config.eos_token_id],
        "suppress_tokens": sorted(suppressed),
        "max_length": config.max_target_positions,
        "max_initial_timestamp_index": 50,
        "return_timestamps": False,
        "is_multilingual": config.vocab_size > _ENGLISH_ONLY,
    }
    if values["is_multilingual"]:
        values["lang_to_id"] = {name: number for name, number in specials.items() if _LANGUAGE.fullmatch(name)}
        values["task_to_id"] = {name: specials[f"<|{name}|>"] for name in ("transcribe", "translate")}
    return values
