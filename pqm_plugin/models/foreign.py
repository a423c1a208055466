"""Recognise model files of other tools by their first bytes, and say how to convert them."""

import json
import struct
from pathlib import Path
from typing import Any

CTRANSLATE2_MODEL = "model.bin"
_ADAPTER, _CONFIG, _OURS = "adapter_config.json", "config.json", "pqm.json"
_FIRST_BYTES = {
    b"lmgg": "a ggml file of whisper.cpp",
    b"tjgg": "a ggml file of whisper.cpp",
    b"GGUF": "a GGUF file of llama.cpp's family",
}
_OF_OPENAI = (
    *("tiny", "tiny.en", "base", "base.en", "small", "small.en", "medium", "medium.en"),
    *("large-v3-turbo", "large-v1", "large-v2", "large-v3", "large"),
)
_OTHER_NAMES = {"turbo": "openai/whisper-large-v3-turbo"}
_ORIGINAL = "give the model that it was made of, as a Hugging Face or CTranslate2 folder, a .pt file or a hub name"
_LONGEST = 200


def is_ctranslate2(folder: Path) -> bool:
    """Whether `folder` holds a Whisper model of CTranslate2."""
    return _spec(folder) == "WhisperSpec"


def is_ctranslate2_config(content: Any) -> bool:
    """Whether the content of a `config.json` is what CTranslate2 writes for a Whisper model."""
    return isinstance(content, dict) and "model_type" not in content and "suppress_ids" in content


def describe(source: str) -> str:
    """What `source` is and what to give in its place, such as "a NeMo model: …"; empty where nothing is known of it."""
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            return _of_folder(path)
        return _of_file(path) if path.is_file() else _of_name(source)
    except (OSError, ValueError, RecursionError):
        return ""


def _of_name(name: str) -> str:
    known = _OTHER_NAMES | {short: f"openai/whisper-{short}" for short in _OF_OPENAI}
    return f"a short name of openai-whisper and faster-whisper: give {known[name]}" if name in known else ""


def _of_file(path: Path) -> str:
    with path.open("rb") as file:
        first = file.read(4)
    if first in _FIRST_BYTES:
        name = max((name for name in _OF_OPENAI if f"-{name}" in path.name), key=len, default="")
        original = f" (openai/whisper-{name} by its name)" if name else ""
        return f"{_FIRST_BYTES[first]}, whose weights are rounded in another way: {_ORIGINAL}{original}"
    if path.name == CTRANSLATE2_MODEL and is_ctranslate2(path.parent):
        return f"the weights of a CTranslate2 model: give the folder, {path.parent}"
    other = {
        ".nemo": "a NeMo model, whose layers are not supported: give an ESPnet Conformer or a Whisper model",
        ".onnx": f"an ONNX graph, from which weights are not read: {_ORIGINAL}",
        ".safetensors": f"weights without their configuration: give the folder that has them and {_CONFIG}",
        ".bin": f"weights without their configuration: give the folder that has them and {_CONFIG}",
    }
    return other.get(path.suffix.lower(), "")


def _of_folder(folder: Path) -> str:
    if (folder / _ADAPTER).is_file():
        return _of_adapter(folder)
    if is_ctranslate2(folder):
        return ""
    if spec := _spec(folder):
        return f"a {spec} model of CTranslate2, no Whisper: give a Whisper model or an ESPnet Conformer"
    config = _object(folder / _CONFIG)
    if config.get("model_type", "whisper") != "whisper":
        kind = _plain(config["model_type"])
        return (
            f"a {kind} model of Hugging Face, whose layers are not supported: give a Whisper model, or a CTC model "
            "(ForCTC) of wav2vec2, hubert, wavlm or data2vec-audio"
        )
    if any(folder.glob("*.onnx")) or any(folder.glob("onnx/*.onnx")):
        return f"an ONNX model, from which weights are not read: {_ORIGINAL}"
    for path in sorted([*folder.glob("*.nemo"), *folder.glob("*.gguf"), *folder.glob("ggml*.bin")]):
        return f"the folder of {path.name}, {_of_file(path)}"
    return ""


def _of_adapter(folder: Path) -> str:
    """An adapter is not a model; its base, and how the two become one."""
    if (folder / _OURS).is_file():
        return (
            "the adapter of a personal model, not a model: give the model's folder, with `--speaker NAME` for the voice"
        )
    base = _plain(_object(folder / _ADAPTER).get("base_model_name_or_path") or "")
    of = f"a PEFT adapter of {base}, not a model" if base else "a PEFT adapter that does not name its base, not a model"
    return (
        f"{of}: `pqm quantize {base or 'BASE'} OUT` makes a model of its base, and "
        f"`pqm adopt OUT {_plain(str(folder))} --speaker NAME` takes the adapter into it"
    )


def _spec(folder: Path) -> str:
    """What CTranslate2 calls the model in `folder`; empty if there is none."""
    try:
        with (folder / CTRANSLATE2_MODEL).open("rb") as file:
            version, size = struct.unpack("<IH", file.read(6))
            name = file.read(size) if 0 < version < 100 and 0 < size < 100 else b""
        return name[:-1].decode("ascii") if name.endswith(b"Spec\0") else ""
    except (OSError, struct.error, UnicodeDecodeError):
        return ""


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _plain(text: Any) -> str:
    """What an untrusted file says, as a part of one line."""
    return "".join(char for char in str(text) if char.isprintable())[:_LONGEST]
