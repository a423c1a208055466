"""An ESPnet experiment folder: configuration, weights, side files, and how it is fetched."""

import contextlib
import os
import pickle
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pqm_plugin.errors import PqmError
from pqm_plugin.files import no_space_as_error, write_text
from pqm_plugin.models.interface import Facts

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "config.yaml"
# A list of thousands of tokens takes Python alone a second.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
WEIGHTS = "valid.acc.ave.pth"
_PATH_FIELDS = (("bpemodel",), ("token_list",), ("normalize_conf", "stats_file"), ("non_linguistic_symbols",))
_TAG = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_PARTS = ("frontend", "specaug", "normalize", "preencoder", "encoder", "postencoder", "decoder", "ctc", "model")
DEFAULTS: Mapping[str, Any] = {
    **{f"{part}_conf": {} for part in _PARTS},
    **dict.fromkeys(("bpemodel", "input_size", "specaug", "init")),
    **{"frontend": "default", "normalize": "utterance_mvn", "token_type": "bpe"},
}
"""What ESPnet builds a model from, and its own defaults of it: versions from before a key wrote configurations without.

An empty `*_conf` leaves each value to the part that is chosen.
"""
# A mapping of names, and those that every configuration of an ASR model has.
_OTHER, _OURS = re.compile(r"^[\w-]+:", re.M), re.compile(r"^(token_list|token_type|encoder|decoder)(_conf)?:", re.M)
# Where training started from, under the names of all versions; nothing that is built of a configuration reads them.
_STARTS = ("init", "init_param", "pretrain_path", "pretrain_key")


ENCODERS = (
    *("conformer", "transformer", "branchformer", "e_branchformer"),
    *("contextual_block_conformer", "contextual_block_transformer"),
)
"""Those that tests hold through packing, adapting and decoding; streaming ones are given whole recordings."""
_INSTEAD = "give a hybrid CTC/attention model (docs/interchange.md lists what is known)"


def check_supported(config: Mapping[str, Any], named: str) -> None:
    """See that a configuration is of a model that can go through all stages, before anything is made of it.

    Raises:
        PqmError: saying of what kind it is and what to give instead; it begins with `named`.
    """
    if what := _obstacle(config):
        raise PqmError(f"{named} is {what}")


def _obstacle(config: Mapping[str, Any]) -> str:
    parts = {
        name: config.get(name) for name in ("frontend", "preencoder", "encoder", "postencoder", "decoder", "model")
    }
    conf = config.get("model_conf") or {}
    if "joint_network_conf" in config or "body_conf" in (config.get("encoder_conf") or {}):
        return f"a transducer of ESPnet's asr_transducer, which has no attention decoder: {_INSTEAD}"
    if parts["decoder"] == "transducer" or config.get("joint_net_conf"):
        return f"a transducer, which has no attention decoder: {_INSTEAD}"
    if "whisper" in parts.values() or "whisper" in str(config.get("token_type")):
        return (
            "a Whisper inside ESPnet, whose parts are not known here: give the Whisper itself, as a Hugging Face or "
            "CTranslate2 folder, a .pt file or a hub name"
        )
    for name, value in parts.items():
        if str(value).startswith(("hugging_face", "huggingface", "s3prl")):
            return f"an ESPnet model with the {name} {value}, a network of another toolkit: {_INSTEAD}"
    if parts["model"] not in (None, "espnet"):
        return f"an ESPnet model of the type {str(parts['model'])[:40]}, which has another search: {_INSTEAD}"
    if "decoder" in config and parts["decoder"] is None or conf.get("ctc_weight") == 1:
        return f"an ESPnet model of CTC alone: {_INSTEAD}, or a CTC model of Hugging Face"
    if conf.get("ctc_weight") == 0:
        return f"an ESPnet model of attention alone, without a CTC layer: {_INSTEAD}"
    if parts["encoder"] not in (None, *ENCODERS):
        return (
            f"an ESPnet model with the encoder {str(parts['encoder'])[:40]}, which is not tested here; known are "
            f"{', '.join(ENCODERS)}: {_INSTEAD}"
        )
    return ""


def claims(folder: Path) -> bool:
    """Whether `folder` has a configuration of ESPnet; one that is damaged counts, and is told of when it is read."""
    try:
        text = (folder / CONFIG).read_text(encoding="utf-8")
    except OSError:
        return False
    except UnicodeDecodeError:
        return True
    return not _OTHER.search(text) or bool(_OURS.search(text))


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of an experiment, its file names made absolute where the files lie in `folder`."""
    config = _parsed(folder / CONFIG)
    for section, key, value in _file_fields(config):
        if not Path(value).is_absolute():
            beside = folder / value
            section[key] = str(beside if beside.exists() else folder / Path(value).name)
    return config


def _parsed(path: Path) -> dict[str, Any]:
    """The keys and values of a configuration.

    Raises:
        PqmError: if the file cannot be read, or is none of an ASR model.
    """
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise PqmError(f"{path} cannot be read ({reason}): give a whole ESPnet experiment folder") from error
    if not isinstance(config, dict) or not config.get("token_list"):
        raise PqmError(f"{path} is not a configuration of an ESPnet ASR model: it has no token_list")
    return config


def _file_fields(config: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, str]]:
    for *parents, key in _PATH_FIELDS:
        section: Any = config
        for parent in parents:
            section = section.get(parent) or {}
        if isinstance(section.get(key), str):
            yield section, key, section[key]


def sample_rate(frontend: Mapping[str, Any]) -> int:
    """Rate in Hz of a `frontend_conf`; ESPnet writes it as 16000, "16000" or "16k"."""
    rate = str(frontend.get("fs", 16000))
    return int(float(rate[:-1]) * 1000) if rate.endswith("k") else int(rate)


def facts(folder: Path) -> Facts:
    """Sampling rate of the frontend, and the characters of the token list."""
    return facts_of(read_config(folder))


def facts_of(config: Mapping[str, Any]) -> Facts:
    """The same of a configuration that `read_config` has read."""
    return Facts(sample_rate(config.get("frontend_conf") or {}), _symbols(token_list(config)))


def token_list(config: Mapping[str, Any]) -> list[str]:
    """All tokens in their order; the configuration has them, or names a file of them."""
    tokens = config["token_list"]
    if isinstance(tokens, str):
        return Path(tokens).read_text(encoding="utf-8").splitlines()
    return [str(token) for token in tokens]


def _symbols(token_list: Sequence[str]) -> frozenset[str]:
    pieces = (token for token in token_list if not re.fullmatch(r"<.*>", token))
    return frozenset("".join(pieces).replace("▁", " ")) | {" "}


@contextlib.contextmanager
def config_file(folder: Path) -> Iterator[Path]:
    """A temporary configuration that ESPnet can read from any working folder, with every key that it builds from.

    Raises:
        PqmError: if it names parts of Hugging Face.
    """
    config = {**DEFAULTS, **{name: value for name, value in read_config(folder).items() if name not in _STARTS}}
    # An empty section of a file is None in YAML, which ESPnet cannot pass on.
    config |= {f"{part}_conf": {} for part in _PARTS if config[f"{part}_conf"] is None}
    for name, value in config.items():
        if str(value).startswith(("hugging_face", "huggingface")):
            raise PqmError(f"{folder / CONFIG}: {name} {value} is of Hugging Face: such parts are not supported")
    with tempfile.TemporaryDirectory(prefix="pqm_config") as scratch:
        path = Path(scratch) / CONFIG
        with no_space_as_error(path):
            path.write_text(yaml.safe_dump(config, allow_unicode=True, sort_keys=False), encoding="utf-8")
        yield path


def side_files(folder: Path) -> list[Path]:
    """The configuration and the files that it names."""
    named = {Path(value) for _, _, value in _file_fields(read_config(folder))}
    return [folder / CONFIG, *sorted(path for path in named if path.parent == folder), *_token_file(folder)]


def files_elsewhere(folder: Path) -> list[str]:
    """What a model that is built of the configuration would read, and does not lie directly in `folder`."""
    config = read_config(folder)
    return [value for _, _, value in _file_fields(config) if Path(value).parent != folder or not Path(value).is_file()]


def _token_file(folder: Path) -> list[Path]:
    return [path for path in (folder / "tokens.txt",) if path.exists()]


def weights_file(folder: Path) -> Path:
    """The averaged checkpoint of an experiment, by ESPnet's names for it.

    Raises:
        PqmError: if there is none.
    """
    for pattern in (WEIGHTS, "valid.acc.ave_*best.pth", "valid.*.ave*.pth", "valid.*.best.pth", "*.pth"):
        found = sorted(path for path in folder.glob(pattern) if not path.name.startswith("checkpoint"))
        if len(found) > 1:
            names = ", ".join(path.name for path in found[:4])
            raise PqmError(f"{folder} holds several weights ({names}): keep the one that is meant, as {WEIGHTS}")
        if found:
            return found[0]
    raise PqmError(f"{folder} holds no ESPnet weights (*.pth): give the folder that holds {WEIGHTS}")


def read_weights(path: Path) -> "Mapping[str, Tensor]":
    """The tensors of a checkpoint; nothing in the file is executed.

    Raises:
        PqmError: if the file is damaged or holds more than plain tensors.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise PqmError(f"{path} is damaged or not a plain checkpoint ({str(error).splitlines()[0]})") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise PqmError(f"{path} holds more than tensors: save the model's state_dict alone")
    return state


def fetch(source: str, out: Path) -> bool:
    """Bring an experiment folder, a packed zip or a model-zoo tag into the new folder `out`; False if it is none."""
    path = Path(source).expanduser()
    if path.is_dir() and (path / CONFIG).exists():
        _import(path, None, out)
    elif path.is_file() and path.suffix in (".zip", ".gz", ".tgz", ".tar"):
        with tempfile.TemporaryDirectory(prefix="pqm_unpack", dir=out.parent) as scratch:
            _import_packed(_unpack(path, Path(scratch)), source, out, Path(scratch))
    elif not path.exists() and _TAG.fullmatch(source):
        _import_packed(_download(source), source, out, _zoo_cache())
    else:
        return False
    return True


def _unpack(archive: Path, scratch: Path) -> Mapping[str, Any]:
    from espnet2.main_funcs.pack_funcs import unpack

    try:
        with no_space_as_error(archive):
            return unpack(archive, scratch)
    except PqmError:
        raise
    except Exception as error:
        raise PqmError(f"{archive} is not a model packed by espnet2.bin.pack ({error})") from error


def _download(tag: str) -> Mapping[str, Any]:
    from espnet_model_zoo.downloader import ModelDownloader

    cache = _zoo_cache()
    try:
        with no_space_as_error(cache):
            cache.mkdir(parents=True, exist_ok=True)
            return ModelDownloader(cache).download_and_unpack(tag)
    except PqmError:
        raise
    except Exception as error:
        reason = " ".join([f"{type(error).__name__}:", *str(error).strip().splitlines()[:1]])
        raise PqmError(
            f"--base {tag}: the model zoo could not be reached or does not know it ({reason}); "
            "download the packed zip by other means and give its path"
        ) from error


def _zoo_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "espnet_model_zoo"


def _import_packed(paths: Mapping[str, Any], source: str, out: Path, root: Path) -> None:
    """Copy a model unpacked under `root`; a packed model may name files of its own alone."""
    try:
        config, weights = Path(paths["asr_train_config"]), Path(paths["asr_model_file"])
    except KeyError as error:
        raise PqmError(f"--base {source}: no ASR model inside ({error} is missing)") from error
    if not (_is_within(weights, root) and weights.is_file()):
        raise PqmError(f"--base {source}: names the weights {weights}, which are not inside: pack the model again")
    _import(config.parent, weights, out, config=config, root=root)


def _is_within(path: Path, root: Path | None) -> bool:
    """Whether the name `path` is below `root`; links are not followed, those of a hub's cache lead to its blobs."""
    return root is None or Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root))


def _import(
    folder: Path, weights: Path | None, out: Path, config: Path | None = None, root: Path | None = None
) -> None:
    """Copy what a model needs into `out`, under house names, its configuration relative to `out`.

    With `root`, files outside of it are not taken: a strange model must not bring along a file of this machine.
    """
    source = _parsed(config or folder / CONFIG)
    check_supported(source, str(config or folder / CONFIG))
    weights = weights or weights_file(folder)
    out.mkdir(parents=True, exist_ok=True)
    for section, key, value in list(_file_fields(source)):
        section[key] = _copy_named(value, folder, out, root)
    if source.get("use_adapter"):
        import torch

        from pqm_plugin.models.espnet.lora import without_adapter

        source, state = without_adapter(weights, source, read_weights(weights))
        with no_space_as_error(out):
            torch.save(dict(state), out / WEIGHTS)
    else:
        shutil.copyfile(weights, out / WEIGHTS)
    for path in _token_file(folder):
        shutil.copyfile(path, out / path.name)
    write_text(out / CONFIG, yaml.safe_dump(source, allow_unicode=True, sort_keys=False))


def write_experiment(source: Path, state: "Mapping[str, Tensor]", out: Path, place: Path) -> None:
    """Write an experiment folder that `espnet2.bin.asr_inference` reads from anywhere on this machine.

    Args:
        source: the folder with the model's configuration and the files that it names.
        state: of ESPnet's model, which is saved in float32 as it is.
        place: where `out` will be moved: the configuration names its files there.
    """
    import torch

    out.mkdir(parents=True, exist_ok=True)
    config = _parsed(source / CONFIG)
    with no_space_as_error(out):
        for section, key, value in list(_file_fields(config)):
            section[key] = os.path.abspath(place / _copy_named(value, source, out, None))
        torch.save({name: tensor.clone() for name, tensor in state.items()}, out / WEIGHTS)
        for path in _token_file(source):
            shutil.copyfile(path, out / path.name)
        write_text(out / CONFIG, yaml.safe_dump(config, allow_unicode=True, sort_keys=False))


def _copy_named(value: str, folder: Path, out: Path, root: Path | None) -> str:
    """Copy the file that a configuration names as `value`; it may be relative to the recipe or to the experiment."""
    choices = [Path(value), folder / value, folder / Path(value).name, *(p / value for p in folder.resolve().parents)]
    found = next((path for path in choices if path.is_file() and _is_within(path, root)), None)
    if found is None:
        raise PqmError(f"{folder / CONFIG} names {value}, which is not there: put it beside {CONFIG}")
    shutil.copyfile(found, out / found.name)
    return found.name
