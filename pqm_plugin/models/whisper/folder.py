"""A Whisper model in Hugging Face's folder format, and how it is fetched."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pqm_plugin.errors import PqmError
from pqm_plugin.files import no_space_as_error, read_json, whole_file, write_json
from pqm_plugin.models import hub
from pqm_plugin.models.foreign import CTRANSLATE2_MODEL, is_ctranslate2, is_ctranslate2_config
from pqm_plugin.models.whisper.tables import CONFIG, GENERATION, TOKENIZER, check_tokenizer, read_settings

WEIGHTS = hub.WEIGHTS
TIED = "proj_out.weight"
EMBEDDING = "model.decoder.embed_tokens.weight"
PREPROCESSOR = hub.PREPROCESSOR
_NEEDED = (CONFIG, GENERATION, PREPROCESSOR)
_SHARDS = "model.safetensors.index.json"
_PICKLED = hub.PICKLED


def read_config(folder: Path) -> dict[str, Any]:
    """The model's configuration.

    Raises:
        PqmError: if it is missing, damaged, or of another kind of model.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise PqmError(f"{path} cannot be read ({error}): give a whole Whisper folder") from error
    if not isinstance(config, dict) or config.get("model_type") != "whisper":
        raise PqmError(f"{path} is not a configuration of a Whisper model")
    return config


def claims(folder: Path) -> bool:
    """Whether `folder` has the configuration of a Whisper model."""
    try:
        return bool(read_config(folder))
    except PqmError:
        return False


def side_files(folder: Path) -> list[Path]:
    """Configurations and tokeniser."""
    return [folder / name for name in (*_NEEDED, *TOKENIZER) if (folder / name).is_file()]


def fetch(source: str, out: Path) -> bool:
    """Bring a folder, an openai-whisper `.pt` file or a name of the Hugging Face hub into `out`; False if it is none.

    A revision may follow the name: `openai/whisper-base.en@main`.
    """
    path = Path(source).expanduser()
    if path.is_dir() and claims(path):
        _import(path, out)
    elif path.is_file() and path.suffix == ".pt":
        from pqm_plugin.models.whisper.conversion import convert_openai

        convert_openai(path, out)
    elif is_ctranslate2(path):
        _from_ctranslate2(path, out)
    elif not path.exists() and hub.is_name(source):
        return _from_hub(source, out)
    else:
        return False
    return True


def _from_ctranslate2(folder: Path, out: Path) -> None:
    from pqm_plugin.models.whisper.conversion import convert_ctranslate2

    with no_space_as_error(out):
        convert_ctranslate2(folder, out)


def _import(folder: Path, out: Path) -> None:
    """Copy what a model needs; weights of another form become one float32 file, settings that lack something whole."""
    extractor = hub.extractor_of_processor(folder)
    missing = [] if extractor or (folder / PREPROCESSOR).is_file() else [PREPROCESSOR]
    if missing or not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        what = ", ".join(missing) or "a tokeniser (tokenizer.json, or vocab.json and merges.txt)"
        raise PqmError(f"{folder} lacks {what}: copy it from where the model was published")
    check_tokenizer(folder)
    config, settings = read_config(folder), read_settings(folder)
    _check_features(extractor or read_json(folder / PREPROCESSOR), config, folder)
    out.mkdir(parents=True, exist_ok=True)
    with no_space_as_error(out):
        hub.copy_settings(side_files(folder), out)
        if not (folder / GENERATION).is_file() or read_json(folder / GENERATION) != settings:
            write_json(out / GENERATION, settings)
        if extractor:
            write_json(out / PREPROCESSOR, extractor)
        own_output = not config.get("tie_word_embeddings", True)
        if _is_plain(folder / WEIGHTS, own_output):
            shutil.copyfile(folder / WEIGHTS, out / WEIGHTS)
            return
        state = _read_state(folder)
        if own_output and TIED not in state:
            raise PqmError(
                f"{folder} has an output matrix of its own by {CONFIG} (tie_word_embeddings is false), but no "
                f"{TIED} among its weights: fetch the model again"
            )
        write_weights(out / WEIGHTS, state)
        if is_own_output(state) != own_output:
            write_json(out / CONFIG, config | {"tie_word_embeddings": not is_own_output(state)})


def is_own_output(state: Mapping[str, Tensor]) -> bool:
    """Whether the output layer is another matrix than the token embedding."""
    embedding = state.get(EMBEDDING)
    return TIED in state and (embedding is None or not torch.equal(state[TIED], embedding))


def tied_output(path: Path, state: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """What the output layer of a model of this configuration takes beside the tensors of the file `path`.

    Raises:
        PqmError: if the file has an output matrix of its own, which the configuration would replace.
    """
    if not config.tie_word_embeddings:
        return {}
    if is_own_output(state):
        raise PqmError(
            f"{path} has an output matrix of its own, {path.parent / CONFIG} says that it is the token embedding: "
            "fetch the model again, or give the folder as --base of another --expdir"
        )
    return {TIED: state.get(EMBEDDING, torch.empty(0))}


def source_files(folder: Path) -> list[Path]:
    """The files of the weights in a folder that can be a base, whatever their form; none if it is not such a folder."""
    if is_ctranslate2(folder):
        return [folder / CTRANSLATE2_MODEL]
    if not claims(folder):
        return []
    for name in (WEIGHTS, _SHARDS, _PICKLED):
        if (folder / name).is_file():
            return (
                [folder / WEIGHTS] if name == WEIGHTS else sorted({folder / name, *folder.glob("model-*.safetensors")})
            )
    return []


def _check_features(extractor: Mapping[str, Any], config: Mapping[str, Any], folder: Path) -> None:
    """See that the feature extractor is the model's.

    Raises:
        PqmError: if its features are not those that the model was trained on.
    """
    for name, expected in (("feature_size", config.get("num_mel_bins", 80)), ("sampling_rate", 16000)):
        found = extractor.get(name, {"feature_size": 80}.get(name, 16000))
        if found != expected:
            raise PqmError(
                f"{folder}: the feature extractor has {name} {found}, the model {expected}: copy {PREPROCESSOR} from "
                "where this very model was published"
            )


def _is_plain(path: Path, own_output: bool) -> bool:
    """Whether the file is as this project keeps a base: float32, a tied weight once."""
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return (TIED in file.keys()) == own_output and all(
                file.get_slice(name).get_dtype() == "F32" for name in file.keys()
            )
    except (SafetensorError, OSError) as error:
        raise PqmError(f"{path} is damaged ({error}): fetch it again") from error


def _read_state(folder: Path) -> dict[str, Tensor]:
    """Tensors of one file, of shards, or of a checkpoint of the older format; nothing in them is executed."""
    if (folder / WEIGHTS).is_file():
        return load_file(folder / WEIGHTS)
    state: dict[str, Tensor] = {}
    if (folder / _SHARDS).is_file():
        names = json.loads((folder / _SHARDS).read_text(encoding="utf-8"))["weight_map"].values()
        for name in sorted(set(names)):
            if Path(name).name != name or not (folder / name).is_file():
                raise PqmError(f"{folder / _SHARDS} names {name}, which is not beside it: fetch the model again")
            state |= load_file(folder / name)
        return state
    if (folder / _PICKLED).is_file():
        loaded = read_checkpoint(folder / _PICKLED)
        return {name: value for name, value in loaded.items() if isinstance(value, Tensor)}
    raise PqmError(f"{folder} holds no weights ({WEIGHTS} or {_PICKLED}): fetch the model again")


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """What a torch checkpoint holds; nothing in it is executed.

    Raises:
        PqmError: if it is damaged or holds more than plain tensors.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise PqmError(f"{path} is damaged or not a plain checkpoint ({str(error).splitlines()[0]})") from error
    if not isinstance(loaded, dict):
        raise PqmError(f"{path} is not a checkpoint of a Whisper model")
    return loaded


def write_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a state in float32, without the output layer where that is the token embedding."""
    left_out = () if is_own_output(state) else (TIED,)
    tensors = {name: value.float().contiguous().clone() for name, value in state.items() if name not in left_out}
    with whole_file(path) as scratch:
        save_file(tensors, scratch, metadata={"format": "pt"})


def _from_hub(source: str, out: Path) -> bool:
    """Download a model, or take it from the hub's cache; False where the hub has no Whisper model of that name."""
    hoped = f"{', '.join(_NEEDED)}, tokenizer.json and {WEIGHTS}"
    folder = hub.download(source, _wanted, likely="whisper" in source.lower(), hoped=hoped, room=out)
    if folder is None:
        return False
    if is_ctranslate2(folder):
        _from_ctranslate2(folder, out)
    else:
        _import(folder, out)
    return True


def _wanted(folder: Path) -> Sequence[str]:
    """Names of the files of a hub's model whose configuration is in `folder`; none if it is not a Whisper model."""
    if is_ctranslate2_config(read_json(folder / CONFIG)):
        return [CONFIG, CTRANSLATE2_MODEL, *TOKENIZER]
    return [*_NEEDED, *TOKENIZER, hub.PROCESSOR, _SHARDS, "*.safetensors"] if claims(folder) else []
