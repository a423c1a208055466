"""A Whisper model in memory, written as the folders of other tools; the only importer of ctranslate2."""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pqm_plugin.errors import PqmError
from pqm_plugin.files import no_space_as_error, read_json, write_json
from pqm_plugin.models.whisper import folder as whisper_folder
from pqm_plugin.models.whisper import library as whisper_library

_COPIED = ("tokenizer.json", "preprocessor_config.json")
# What vLLM can put a LoRA around in its Whisper: its fused projections take q, k and v one by one, by these names.
_OF_VLLM = re.compile(
    r"model\.(encoder|decoder)\.layers\.\d+\.(?:(?:self_attn|encoder_attn)\.(?:q|k|v|out)_proj|fc1|fc2)"
)
_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def to_huggingface(network: nn.Module, source: Path, out: Path) -> None:
    """Write the folder that `from_pretrained` of transformers reads, weights in float32.

    Args:
        source: a folder with the model's configurations and tokeniser.
    """
    with no_space_as_error(out):
        for path in whisper_folder.side_files(source):
            (out / path.name).write_bytes(path.read_bytes())
        state = network.state_dict()
        config = read_json(out / whisper_folder.CONFIG)
        is_tied = not whisper_folder.is_own_output(state)
        told = {name: value for name, value in config.items() if name not in ("dtype", "torch_dtype")}
        write_json(out / whisper_folder.CONFIG, told | {"tie_word_embeddings": is_tied, "dtype": "float32"})
        whisper_folder.write_weights(out / whisper_folder.WEIGHTS, state)


def to_faster_whisper(network: nn.Module, source: Path, out: Path) -> None:
    """Write the folder that `WhisperModel` of faster-whisper reads, by CTranslate2's own converter, in float32.

    Raises:
        PqmError: if CTranslate2 is not installed, or does not convert the model.
    """
    try:
        from ctranslate2.converters import TransformersConverter
    except ImportError as error:
        raise PqmError(f"--to faster-whisper needs CTranslate2 ({error}): pip install 'pqm_plugin[export]'") from error
    with tempfile.TemporaryDirectory(prefix="pqm_export", dir=out.parent) as scratch:
        made = Path(scratch)
        to_huggingface(network, source, made)
        if not (made / _COPIED[0]).is_file():
            whisper_library.WhisperTokenizer.from_pretrained(made).save_pretrained(made)
        try:
            with no_space_as_error(out):
                converter = TransformersConverter(str(made), copy_files=list(_COPIED))
                converter.convert(str(out), quantization="float32", force=True)
        except PqmError:
            raise
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise PqmError(f"CTranslate2 does not convert this model ({why}): use --to huggingface") from error


def vllm_obstacle(config: Mapping[str, Any], layers: Mapping[str, Any]) -> str:
    """Why vLLM's LoRA loader would not take an adapter; empty if it does.

    Args:
        config: of the adapter, as peft writes it.
        layers: its factors by the layer's full name.

    Source: vLLM's `lora/lora_model.py`, `lora/peft_helper.py` and `model_executor/models/whisper.py`, from 0.13 on: one
    rank and scale for all layers, no bias, linear layers of encoder and decoder alone.
    """
    odd = [name for name in layers if not _OF_VLLM.fullmatch(name)]
    if odd:
        return (
            f"it adapts {odd[0]}, where vLLM takes no LoRA: learn it on linear layers of encoder and decoder "
            "(lora.targets: attention or all_linear)"
        )
    if config["r"] > _VLLM_RANKS[-1]:
        return f"its rank is {config['r']}, vLLM takes {_VLLM_RANKS[-1]} at most"
    return ""


def vllm_rank(rank: int) -> int:
    """The `--max-lora-rank` that vLLM is to be started with for an adapter of this rank."""
    return next(allowed for allowed in _VLLM_RANKS if allowed >= rank)
