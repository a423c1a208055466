"""Convert Whisper models of openai-whisper (`.pt`) and CTranslate2 (`model.bin`) to Hugging Face folders."""

import json
import logging
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from pqm_plugin.errors import PqmError
from pqm_plugin.files import write_json
from pqm_plugin.models.foreign import CTRANSLATE2_MODEL as MODEL
from pqm_plugin.models.whisper import folder as whisper_folder
from pqm_plugin.models.whisper import library as whisper_library
from pqm_plugin.models.whisper import tables as whisper_tables

# In this order: a layer's names, then those of the whole.
_OPENAI_NAMES = (
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


def convert_openai(path: Path, out: Path) -> None:
    """Write the model of a `.pt` file as a Hugging Face folder in float32.

    The file holds no vocabulary; that comes from the openai-whisper package.

    Raises:
        PqmError: if the file is damaged or no Whisper model, or the package is not installed.
    """
    loaded = whisper_folder.read_checkpoint(path)
    dims, state = loaded.get("dims"), loaded.get("model_state_dict")
    if not isinstance(dims, Mapping) or not isinstance(state, Mapping):
        raise PqmError(f"{path} is not a checkpoint of openai-whisper: it lacks dims or model_state_dict")
    try:
        tokenizer = _published_tokenizer(dims["n_vocab"], path)
        config = openai_config(dims, tokenizer.eot)
    except KeyError as error:
        raise PqmError(f"{path}: its dims lack {error}") from error
    out.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(tokenizer.encoding, out)
    architecture = {"architectures": ["WhisperForConditionalGeneration"]}
    write_json(out / whisper_folder.CONFIG, config.to_diff_dict() | architecture)
    write_json(out / "generation_config.json", _generation_config(config, tokenizer))
    whisper_library.WhisperFeatureExtractor(feature_size=config.num_mel_bins, chunk_length=_WINDOW_S).save_pretrained(
        out
    )
    whisper_folder.write_weights(out / whisper_folder.WEIGHTS, openai_renamed(state))


def openai_renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an openai-whisper model under the names of `WhisperForConditionalGeneration`."""
    result = {}
    for name, value in state.items():
        for pattern, replacement in _OPENAI_NAMES:
            name = re.sub(pattern, replacement, name)
        result[f"model.{name}"] = value
    return result


def openai_config(dims: Mapping[str, int], end: int) -> "whisper_library.WhisperConfig":
    """The configuration of an openai-whisper model of these dimensions, whose end-of-text token is `end`."""
    width = dims["n_audio_state"]
    return whisper_library.WhisperConfig(
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
    from transformers import AddedToken
    from transformers.convert_slow_tokenizer import bytes_to_unicode

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
    tokenizer = whisper_library.WhisperTokenizer(vocab=vocabulary, merges=merges)
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


def _generation_config(config: "whisper_library.WhisperConfig", tokenizer: Any) -> dict[str, Any]:
    """As the published models have it: no timestamps, tokens that are not speech suppressed."""
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


_log = logging.getLogger(__name__)
_SPEC = "WhisperSpec"
_VERSIONS = range(4, 7)  # of the file: aliases since 3, the type of a tensor's elements since 4
_DTYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
_MAX_DIMENSIONS = 4
_REMEDY = "fetch or convert the model again"
_FRAMES_PER_S = 100

# A layer's parts, then those of the whole. Queries, keys and values that lie in one matrix are taken apart.
_SELF, _CROSS = ("q_proj", "k_proj", "v_proj"), ("k_proj", "v_proj")
_CTRANSLATE2_NAMES = (
    (r"/layer_(\d+)/", r".layers.\1."),
    (r"\.attention/layer_norm/", ".encoder_attn_layer_norm."),
    (r"\.self_attention/layer_norm/", ".self_attn_layer_norm."),
    (r"\.ffn/layer_norm/", ".final_layer_norm."),
    (r"\.ffn/linear_0/", ".fc1."),
    (r"\.ffn/linear_1/", ".fc2."),
    (r"\.self_attention/linear_0/", f".self_attn.{'+'.join(_SELF)}."),
    (r"\.self_attention/linear_1/", ".self_attn.out_proj."),
    (r"\.attention/linear_0/", ".encoder_attn.q_proj."),
    (r"\.attention/linear_1/", f".encoder_attn.{'+'.join(_CROSS)}."),
    (r"\.attention/linear_2/", ".encoder_attn.out_proj."),
    (r"/embeddings/", ".embed_tokens."),
    (r"/position_encodings/encodings$", ".embed_positions.weight"),
    (r"gamma$", "weight"),
    (r"beta$", "bias"),
    (r"/", "."),
)
_PROJECTION = "decoder/projection/"


def convert_ctranslate2(folder: Path, out: Path) -> None:
    """Write the model of a CTranslate2 folder as a Hugging Face folder in float32.

    Raises:
        PqmError: if a file is missing, damaged or of another kind of model.
    """
    variables = read_variables(folder / MODEL)
    settings = _settings(folder)
    _say_what_is_lost(folder / MODEL, variables)
    try:
        state = ctranslate2_renamed(variables)
        config = ctranslate2_config(variables, state)
    except (KeyError, IndexError, RuntimeError) as error:
        raise PqmError(f"{folder / MODEL} lacks parts of a Whisper model ({error}): {_REMEDY}") from error
    whisper_tables.check_tokenizer(folder)
    tokens = whisper_tables.token_ids(folder)
    if max(tokens.values()) >= config.vocab_size:
        raise PqmError(
            f"{folder}: the tokeniser has {max(tokens.values()) + 1} tokens, the model {config.vocab_size}: it is "
            "another model's; take tokenizer.json from where the model was published"
        )
    out.mkdir(parents=True, exist_ok=True)
    whisper_tables.copy_tokenizer(folder, out)
    tables = whisper_tables.made_of(tokens, config.vocab_size, config.max_target_positions)
    whisper_tables.check(tables, folder / "tokenizer.json", config.vocab_size)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
        setattr(config, name, tables[name])
    config.begin_suppress_tokens = settings.get("begin_suppress_tokens")
    architecture = {"architectures": ["WhisperForConditionalGeneration"]}
    write_json(out / whisper_folder.CONFIG, config.to_diff_dict() | architecture)
    write_json(out / whisper_tables.GENERATION, tables | settings)
    window_s = 2 * config.max_source_positions // _FRAMES_PER_S
    extractor = whisper_library.WhisperFeatureExtractor(feature_size=config.num_mel_bins, chunk_length=window_s)
    extractor.save_pretrained(out)
    whisper_folder.write_weights(out / whisper_folder.WEIGHTS, state)


def _say_what_is_lost(path: Path, variables: Mapping[str, Tensor]) -> None:
    whole = {"int8": torch.int8, "int16": torch.int16}
    for name, dtype in whole.items():
        if any(value.dtype == dtype and value.dim() > 1 for value in variables.values()):
            _log.warning(
                "%s is in %s: its matrices were rounded when it was made, and what that lost is lost in the 4-bit "
                "model, too; for best words give the float16 model or the original",
                path,
                name,
            )


def read_variables(path: Path) -> dict[str, Tensor]:
    """The tensors of a `model.bin`, in the precision in which it stores them; aliases are the same tensor.

    Raises:
        PqmError: if the file is damaged, of an unknown version, or no Whisper model.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path)
    except (OSError, struct.error, ValueError, KeyError, IndexError) as error:
        if isinstance(error, PqmError):
            raise
        raise PqmError(f"{path} is damaged ({error}): {_REMEDY}") from error


def _read(file: BinaryIO, path: Path) -> dict[str, Tensor]:
    [version] = _numbers(file, "I")
    if version not in _VERSIONS:
        raise PqmError(
            f"{path} has version {version} of CTranslate2's format, read here are {_VERSIONS.start} to "
            f"{_VERSIONS.stop - 1}: convert the model again with ct2-transformers-converter"
        )
    spec = _string(file)
    if spec != _SPEC:
        raise PqmError(f"{path} is a {spec} of CTranslate2, no Whisper model: give a Whisper model")
    _, n_variables = _numbers(file, "II")
    found: dict[str, Tensor] = {}
    for _ in range(n_variables):
        name = _string(file)
        found[name] = _tensor(file)
    [n_aliases] = _numbers(file, "I")
    for _ in range(n_aliases):
        alias, name = _string(file), _string(file)
        found[alias] = found[name]
        if f"{name}_scale" in found:
            found.setdefault(f"{alias}_scale", found[f"{name}_scale"])
    return found


def _numbers(file: BinaryIO, kinds: str) -> tuple[int, ...]:
    layout = struct.Struct(f"<{kinds}")
    return layout.unpack(file.read(layout.size))


def _string(file: BinaryIO) -> str:
    """Its length with the zero that ends it, then the bytes."""
    [size] = _numbers(file, "H")
    data = file.read(size)
    if len(data) != size:
        raise ValueError("it ends within a name")
    return data.rstrip(b"\0").decode()


def _tensor(file: BinaryIO) -> Tensor:
    [n_dimensions] = _numbers(file, "B")
    if n_dimensions > _MAX_DIMENSIONS:
        raise ValueError(f"a tensor of {n_dimensions} dimensions")
    shape = _numbers(file, "I" * n_dimensions)
    kind, size = _numbers(file, "BI")
    dtype = _DTYPES[kind]
    data = file.read(size)
    n_elements = 1
    for length in shape:
        n_elements *= length
    if len(data) != size or size != n_elements * dtype.itemsize:
        raise ValueError(f"a tensor {tuple(shape)} of {dtype} has {len(data)} bytes")
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)


def ctranslate2_renamed(variables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names of `WhisperForConditionalGeneration`, float32, out of whole numbers by their scales.

    The output layer is left out where it is the token embedding; the encoder's positions are exact sinusoids where
    these are what was rounded.
    """
    state: dict[str, Tensor] = {}
    for name, value in variables.items():
        if not value.dim() or name.endswith("_scale"):
            continue
        value = _dequantized(value, variables.get(f"{name}_scale"))
        if name.startswith(_PROJECTION):
            state[f"proj_out.{name.removeprefix(_PROJECTION)}"] = value
            continue
        for pattern, replacement in _CTRANSLATE2_NAMES:
            name = re.sub(pattern, replacement, name)
        state |= {f"model.{part}": piece for part, piece in _apart(name, value)}
    embedding = state["model.decoder.embed_tokens.weight"]
    if torch.equal(state.get(whisper_folder.TIED, embedding), embedding):
        state.pop(whisper_folder.TIED, None)
    if not state.get("proj_out.bias", embedding.new_zeros(1)).any():
        state.pop("proj_out.bias", None)
    stored = variables["encoder/position_encodings/encodings"]
    state["model.encoder.embed_positions.weight"] = _exact_positions(stored)
    return state


def _dequantized(value: Tensor, scale: Tensor | None) -> Tensor:
    """Float32; the scales (out,), or one of all, are what the weights were multiplied by."""
    if scale is None:
        return value.float()
    return value.float() / scale.float().reshape(-1, *[1] * (value.dim() - 1))


def _apart(name: str, value: Tensor) -> list[tuple[str, Tensor]]:
    """The parts of what is in one; keys have no bias in Whisper, CTranslate2 stores zeros."""
    joined = next((part for part in name.split(".") if "+" in part), "")
    if not joined:
        return [(name, value)]
    parts = joined.split("+")
    pieces = value.chunk(len(parts))
    names = [name.replace(joined, part) for part in parts]
    return [pair for pair in zip(names, pieces, strict=True) if not pair[0].endswith("k_proj.bias")]


def _exact_positions(stored: Tensor) -> Tensor:
    """`stored` (T, D), or the sinusoids if `stored` is their rounding to 16 bits."""
    exact = whisper_library.sinusoids(*stored.shape).float()
    if stored.dtype in (torch.float16, torch.bfloat16):
        step = torch.finfo(stored.dtype).eps
        if float((stored.float() - exact).abs().max()) < step:
            return exact
    return stored.float()


def ctranslate2_config(variables: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> "whisper_library.WhisperConfig":
    """Sizes by the tensors; the tokens at the ends are not known yet."""
    sizes: dict[str, Any] = {}
    for side in ("encoder", "decoder"):
        layers = {name.split(".")[3] for name in state if name.startswith(f"model.{side}.layers.")}
        sizes[f"{side}_layers"] = len(layers)
        sizes[f"{side}_ffn_dim"] = state[f"model.{side}.layers.0.fc1.weight"].shape[0]
        sizes[f"{side}_attention_heads"] = int(variables[f"{side}/num_heads"])
    vocab_size, width = state["model.decoder.embed_tokens.weight"].shape
    return whisper_library.WhisperConfig(
        vocab_size=vocab_size,
        d_model=width,
        num_mel_bins=state["model.encoder.conv1.weight"].shape[1],
        max_source_positions=state["model.encoder.embed_positions.weight"].shape[0],
        max_target_positions=state["model.decoder.embed_positions.weight"].shape[0],
        tie_word_embeddings=whisper_folder.TIED not in state,
        **sizes,
    )


def _settings(folder: Path) -> dict[str, Any]:
    """What CTranslate2's `config.json` says of the search, under transformers' names."""
    path = folder / whisper_folder.CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        named = {"suppress_tokens": "suppress_ids", "begin_suppress_tokens": "suppress_ids_begin"}
        found = {ours: values.get(theirs) for ours, theirs in (named | {"alignment_heads": "alignment_heads"}).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise PqmError(f"{path} cannot be read ({error}): copy it from where the model was published") from error
    return {name: value for name, value in found.items() if value}
