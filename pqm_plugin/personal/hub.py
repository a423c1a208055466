"""Push to and pull from the Hugging Face hub: the files of a pack with the manifest of their hashes."""

import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pqm_plugin.errors import PqmError
from pqm_plugin.files import whole_folder
from pqm_plugin.personal.folder import ModelFolder
from pqm_plugin.personal.packing import manifest_of, model_contents
from pqm_plugin.personal.unpacking import (
    MANIFEST,
    MOST_BYTES,
    Entry,
    Manifest,
    check_records,
    is_model_file,
    refuse_if_too_large,
)

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_REVISION = re.compile(r"[\w./-]*")


def push(
    model: str | Path,
    repository: str,
    speakers: Sequence[str] | None = None,
    licence: str = "",
    *,
    public: bool = False,
) -> str:
    """Put a model into a repository of the hub, in one commit, and return its address; what it no longer has goes.

    Args:
        repository: `owner/name`; it is made if it is not there. The token is the hub's own (`hf auth login`, HF_TOKEN).
        speakers: as `packing.pack`.
        public: a new repository is seen by all; by default by its owner alone, for adapters are of people's voices.

    Raises:
        PqmError: as `packing.pack`, and if the hub cannot be reached or refuses.
    """
    _check(repository)
    contents = model_contents(ModelFolder.of(model), speakers, licence)
    files: dict[str, Path | bytes] = {MANIFEST: manifest_of(contents).to_bytes(), **contents}

    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    with _one_line(repository):
        api.create_repo(repository, private=not public, exist_ok=True)
        gone = [name for name in api.list_repo_files(repository) if name not in files and is_model_file(name)]
        changes: list[Any] = [CommitOperationDelete(name) for name in gone]
        changes += [
            CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
            for name, content in files.items()
        ]
        done = api.create_commit(repository, changes, commit_message="Add a personal model")
    return str(done.commit_url)


def pull(repository: str, out: str | Path) -> ModelFolder:
    """Fetch a model from the hub into the new folder `out`.

    Args:
        repository: `owner/name`, a branch, tag or commit may follow after `@`.

    Raises:
        PqmError: if `out` is there already, the hub cannot be reached, or what comes is not what its manifest says;
            then there is no `out`.
    """
    name, _, revision = repository.partition("@")
    _check(name, revision)
    target = Path(out).expanduser()
    if target.exists():
        raise PqmError(f"{target} is there already: choose another folder, or remove it first")

    from huggingface_hub import HfApi

    with _one_line(repository):
        commit = HfApi().model_info(name, revision=revision or None).sha or "main"
        manifest = Manifest.parse(_fetched(name, commit, MANIFEST, MOST_BYTES).read_bytes(), repository)
        refuse_if_too_large(manifest, target)
        with whole_folder(target) as scratch:
            for file, entry in manifest.files.items():
                (scratch / file).parent.mkdir(parents=True, exist_ok=True)
                _take(_fetched(name, commit, file, entry.size_bytes), scratch / file, entry, f"{repository}: {file}")
            check_records(scratch, manifest, repository)
    return ModelFolder.of(target)


def _check(name: str, revision: str = "") -> None:
    if not _NAME.fullmatch(name) or not _REVISION.fullmatch(revision) or ".." in name + revision:
        raise PqmError(f"{name[:80]!r} is not a name on the hub: write owner/name")


def _fetched(name: str, commit: str, file: str, most_bytes: int) -> Path:
    """A file of the repository in the hub's own cache; one that is longer than it may be is not fetched."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    size = get_hf_file_metadata(hf_hub_url(name, file, revision=commit)).size
    if size is None or size > most_bytes:
        raise PqmError(f"{name}: {file} has {size} bytes, {most_bytes} are allowed: it is refused")
    return Path(hf_hub_download(name, file, revision=commit))


def _take(source: Path, target: Path, entry: Entry, what: str) -> None:
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != entry.sha256 or target.stat().st_size != entry.size_bytes:
        raise PqmError(f"{what} is not the file that was pushed (its hash differs): fetch it again")


@contextmanager
def _one_line(repository: str) -> Iterator[None]:
    """Whatever keeps the hub away is said in one line."""
    try:
        yield
    except PqmError:
        raise
    except Exception as error:
        reason = " ".join([f"{type(error).__name__}:", *str(error).strip().splitlines()[:1]])[:200]
        raise PqmError(
            f"{repository}: the Hugging Face hub could not be reached, or refuses ({reason}): check the network, the "
            "name and the token (`hf auth login`), or hand the model on as a file with `pqm pack`"
        ) from error
