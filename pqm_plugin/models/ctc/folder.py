"""A CTC model in Hugging Face's folder format: configuration, vocabulary, weights, and how it is fetched."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils import parametrize

from pqm_plugin.errors import PqmError
from pqm_plugin.files import no_space_as_error, read_json, whole_file, write_json
from pqm_plugin.models import hub
from pqm_plugin.models.ctc import library

MODEL_TYPES = ("wav2vec2", "hubert", "wavlm", "data2vec-audio")
"""Those whose modules have the same names: a convolutional front, a projection, a Transformer encoder, `lm_head`."""
CONFIG = hub.CONFIG
WEIGHTS = hub.WEIGHTS
VOCABULARY = "vocab.json"
_TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_SHARDS = "model.safetensors.index.json"
_TOKENIZERS = ("Wav2Vec2CTCTokenizer", "Wav2Vec2Tokenizer")
_REFUSED = {
    "adapter_attn_dim": "adapter layers for each language (MMS)",
    "add_adapter": "convolutions behind its encoder (add_adapter)",
}
# transformers reads checkpoints of before and after torch's new weight norm; what training alone uses may be lacking.
_OLD_NAMES = {".weight_g": ".parametrizations.weight.original0", ".weight_v": ".parametrizations.weight.original1"}
_FOR_TRAINING = ".masked_spec_embed"


def claims(folder: Path) -> bool:
    """Whether `folder` has the configuration of a CTC model of a type that is known here."""
    config = _object(folder / CONFIG)
    architectures = config.get("architectures")
    ends_in_ctc = isinstance(architectures, list) and any(str(name).endswith("ForCTC") for name in architectures)
    return config.get("model_type") in MODEL_TYPES and ends_in_ctc


def read_config(folder: Path) -> dict[str, Any]:
    """The model's configuration.

    Raises:
        PqmError: if it is of another kind of model, or the model has parts that are not known here.
    """
    path, config = folder / CONFIG, _object(folder / CONFIG)
    if not claims(folder):
        raise PqmError(f"{path} does not describe a CTC model ({', '.join(MODEL_TYPES)}): give a whole folder")
    for name, what in _REFUSED.items():
        if config.get(name):
            raise PqmError(f"{path}: this model has {what}, which are not supported: give a model without")
    return config


def read_vocabulary(folder: Path) -> dict[str, int]:
    """Token numbers by token.

    Raises:
        PqmError: if the file is missing, or holds something else than one vocabulary of characters.
    """
    path, found = folder / VOCABULARY, _object(folder / VOCABULARY)
    if not found:
        raise PqmError(f"{path} is missing or holds no vocabulary: copy it from where the model was published")
    if any(isinstance(value, dict) for value in found.values()):
        raise PqmError(f"{path} has a vocabulary for each language (MMS), which is not supported: give another model")
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in found.values()):
        raise PqmError(f"{path} does not map tokens to whole numbers: copy it from where the model was published")
    kind = _object(folder / _TOKENIZER[0]).get("tokenizer_class") or _TOKENIZERS[0]
    if kind not in _TOKENIZERS:
        raise PqmError(f"{folder / _TOKENIZER[0]}: its tokeniser is a {str(kind)[:80]}; only characters are supported")
    return found


def source_files(folder: Path) -> list[Path]:
    """The files of the weights in a folder that can be a base, whatever their form; none if it is not such a folder."""
    if not claims(folder):
        return []
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    shards = sorted(folder.glob("model-*.safetensors"))
    return [path for path in (folder / _SHARDS, *shards, folder / hub.PICKLED) if path.is_file()]


def side_files(folder: Path) -> list[Path]:
    """Configurations and vocabulary."""
    names = (CONFIG, hub.PREPROCESSOR, VOCABULARY, *_TOKENIZER)
    return [folder / name for name in names if (folder / name).is_file()]


def read_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a float file under the names that a network has.

    Args:
        expected: the network's own, by name.

    Raises:
        PqmError: if the file is damaged.
    """
    state = {_renamed(name): tensor for name, tensor in hub.read_weights(path).items()}
    lacking = {name: torch.zeros_like(tensor) for name, tensor in expected.items() if name.endswith(_FOR_TRAINING)}
    return lacking | state


def _renamed(name: str) -> str:
    for old, new in _OLD_NAMES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def fetch(source: str, out: Path) -> bool:
    """Bring a folder or a name of the Hugging Face hub into the new folder `out`; False if it is none of a CTC model.

    A revision may follow the name: `facebook/wav2vec2-base-960h@main`.
    """
    folder: Path | None = Path(source).expanduser()
    if folder is not None and not folder.exists() and hub.is_name(source):
        likely = any(name in source.lower() for name in (*MODEL_TYPES, "data2vec"))
        hoped = f"{CONFIG}, {hub.PREPROCESSOR}, {VOCABULARY}, {_TOKENIZER[0]} and {WEIGHTS}"
        folder = hub.download(source, _wanted, likely=likely, hoped=hoped, room=out)
    if folder is None or not claims(folder):
        return False
    _import(folder, out)
    return True


def _wanted(folder: Path) -> Sequence[str]:
    names = (CONFIG, hub.PREPROCESSOR, hub.PROCESSOR, VOCABULARY, *_TOKENIZER, _SHARDS)
    return [*names, "*.safetensors"] if claims(folder) else []


def _import(folder: Path, out: Path) -> None:
    """Copy what a model needs; weights of any form that transformers reads become one float32 file."""
    extractor = hub.extractor_of_processor(folder)
    if not extractor and not (folder / hub.PREPROCESSOR).is_file():
        raise PqmError(f"{folder} lacks {hub.PREPROCESSOR}: copy it from where the model was published")
    read_config(folder)
    read_vocabulary(folder)
    settings = extractor or read_json(folder / hub.PREPROCESSOR)
    if not isinstance(settings, dict) or settings.get("feature_size", 1) != 1:
        raise PqmError(f"{folder / hub.PREPROCESSOR} does not describe samples as features: copy it again")
    state = _loaded_by_transformers(folder)
    out.mkdir(parents=True, exist_ok=True)
    with no_space_as_error(out):
        hub.copy_settings(side_files(folder), out)
        if extractor:
            write_json(out / hub.PREPROCESSOR, extractor)
        with whole_file(out / WEIGHTS) as scratch:
            save_file(state, scratch, metadata={"format": "pt"})


def _loaded_by_transformers(folder: Path) -> dict[str, Tensor]:
    """The float32 tensors of a folder; nothing in it is executed.

    Raises:
        PqmError: if transformers cannot read them, or they are not those of the configuration.
    """
    try:
        with _quietly():
            network, info = library.AutoModelForCTC.from_pretrained(
                folder,
                dtype=torch.float32,
                output_loading_info=True,
                local_files_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
            )
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise PqmError(f"{folder}: its weights cannot be read ({reason}): fetch the model again") from error
    missing = [name for name in info["missing_keys"] if not name.endswith(_FOR_TRAINING)]
    odd = [*missing, *(str(key) for key in info["mismatched_keys"])]
    if odd:
        raise PqmError(
            f"{folder}: {len(odd)} weights are missing or of another shape, such as {odd[0]}: fetch the model again"
        )
    state = {name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()}
    # transformers fills what is missing with random numbers.
    return state | {name: torch.zeros_like(state[name]) for name in info["missing_keys"]}


def write_model(source: Path, state: Mapping[str, Tensor], out: Path) -> None:
    """Write a folder that `from_pretrained` of transformers reads, weights in float32.

    Args:
        source: a folder with the model's configurations and vocabulary.
        state: of a model whose weight normalisation is folded into one weight, which is taken apart again.
    """
    network = library.AutoModelForCTC.from_config(library.AutoConfig.from_pretrained(source))
    with torch.no_grad():
        for name, module in network.named_modules():
            if parametrize.is_parametrized(module, "weight"):
                module.weight = state[f"{name}.weight"]
        network.load_state_dict(
            {name: state[name] for name in network.state_dict().keys() & state.keys()}, strict=False
        )
    with no_space_as_error(out):
        for path in side_files(source):
            (out / path.name).write_bytes(path.read_bytes())
        tensors = {name: value.float().contiguous().clone() for name, value in network.state_dict().items()}
        save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})


@contextmanager
def _quietly() -> Iterator[None]:
    """Within it transformers shows no bars and says nothing of what is missing, which is told here."""
    shown, level = library.logging.is_progress_bar_enabled(), library.logging.get_verbosity()
    library.logging.disable_progress_bar()
    library.logging.set_verbosity_error()
    try:
        yield
    finally:
        library.logging.set_verbosity(level)
        if shown:
            library.logging.enable_progress_bar()


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
