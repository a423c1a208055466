"""Download from the Hugging Face hub, and what all folders in its format share."""

import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pqm_plugin.errors import PqmError
from pqm_plugin.files import no_space_as_error

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"
WEIGHTS = "model.safetensors"
PICKLED = "pytorch_model.bin"
_SAFE = "*.safetensors"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
_PATIENCE_S = 20.0


def is_name(source: str) -> bool:
    """Whether `source` can be a name of the hub, with or without a revision: `openai/whisper-base.en@main`."""
    return bool(_NAME.fullmatch(source))


def download(
    source: str, wanted: Callable[[Path], Sequence[str]], *, likely: bool, hoped: str, room: Path
) -> Path | None:
    """Download a model, or take it from the hub's cache.

    Args:
        wanted: names of the files, or patterns, of the model whose `config.json` is in a folder; none if it is not of
            the family that asks. Where there are no safetensors among what `*.safetensors` asks for, the older format
            of weights is fetched too.
        likely: whether the name is one of that family, so that it says what cannot be reached.
        hoped: the files that a user without a network is told to copy.
        room: a place on the disk that the model is for.

    Returns:
        The folder of the cache that holds the files; None where the hub has no model of the family by that name.

    Raises:
        PqmError: if the hub cannot be reached and `likely`.
    """
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    name, _, revision = source.partition("@")
    options: dict[str, Any] = {"repo_id": name, "revision": revision or None, "local_files_only": False}
    unreachable = None
    try:
        HfApi().model_info(name, revision=revision or None, timeout=_PATIENCE_S)
    except RepositoryNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001 - whatever keeps the hub away, the cache may still have the model
        unreachable = error
        options["local_files_only"] = True
    try:
        with no_space_as_error(room):
            patterns = list(wanted(Path(hf_hub_download(filename=CONFIG, **options)).parent))
            if not patterns:
                return None
            folder = Path(snapshot_download(allow_patterns=patterns, **options))
            if _SAFE in patterns and not any(folder.glob(_SAFE)):
                folder = Path(snapshot_download(allow_patterns=[*patterns, PICKLED], **options))
            return folder
    except (EntryNotFoundError, OSError, ValueError) as error:
        missing_there = isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
        # Another name is perhaps another family's, which says itself what cannot be reached.
        if missing_there or not likely:
            return None
        raise PqmError(_not_reached(name, unreachable or error, hoped)) from error


def _not_reached(name: str, error: Exception, hoped: str) -> str:
    reason = " ".join([f"{type(error).__name__}:", *str(error).strip().splitlines()[:1]])
    return (
        f"--base {name}: the Hugging Face hub could not be reached ({reason}); download {hoped} of {name} on another "
        "machine, put them into one folder, and give that as --base"
    )


def extractor_of_processor(folder: Path) -> dict[str, Any]:
    """The feature extractor's settings where transformers 5 keeps them, if they are not in a file of their own.

    Raises:
        PqmError: if that file holds none.
    """
    if (folder / PREPROCESSOR).is_file() or not (folder / PROCESSOR).is_file():
        return {}
    try:
        found = json.loads((folder / PROCESSOR).read_text(encoding="utf-8-sig"))["feature_extractor"]
        return dict(found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PqmError(
            f"{folder / PROCESSOR} holds no feature extractor ({error}): copy {PREPROCESSOR} from where the model was "
            "published"
        ) from error


def weights_file(folder: Path) -> Path:
    """The float32 weights of a base folder.

    Raises:
        PqmError: if there are none.
    """
    if not (folder / WEIGHTS).is_file():
        raise PqmError(f"{folder} holds no {WEIGHTS}: give a whole folder as --base, stage 2 makes one of it")
    return folder / WEIGHTS


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of safetensors.

    Raises:
        PqmError: if it is damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise PqmError(f"{path} is damaged ({error}): fetch it again") from error


def copy_settings(files: Iterable[Path], out: Path) -> None:
    """Copy configurations without a mark of byte order, which editors on Windows write and transformers cannot read."""
    for path in files:
        (out / path.name).write_bytes(path.read_bytes().removeprefix(BOM_UTF8))
