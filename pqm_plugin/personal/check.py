"""Find every problem of a model's folder."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pqm_plugin.errors import PqmError
from pqm_plugin.files import safe_name
from pqm_plugin.personal.facts import facts
from pqm_plugin.personal.folder import SPEAKERS, ModelFolder, is_adapter
from pqm_plugin.personal.options import enroll_options, search_options


def problems(path: Path) -> list[str]:
    """A line for each problem of a model's folder, or of a pack; none if it is whole."""
    if path.is_file():
        from pqm_plugin.personal.unpacking import check_pack

        return _said(lambda: check_pack(path))
    try:
        folder = ModelFolder.of(path)
    except PqmError as error:
        return [str(error)]
    return [*_said(lambda: facts(folder)), *_settings(folder), *_base(folder), *_adapters(folder)]


def _said(step: Callable[[], object]) -> list[str]:
    """What a step complains of."""
    try:
        step()
    except PqmError as error:
        return [str(error)]
    return []


def _settings(folder: ModelFolder) -> Iterator[str]:
    for read in (search_options, enroll_options):
        yield from _said(partial(_read, folder, read))


def _read(folder: ModelFolder, read: Callable[[Mapping[str, Any]], object]) -> None:
    read(folder.about())


def _base(folder: ModelFolder) -> Iterator[str]:
    from pqm_plugin.models.language import AUTO
    from pqm_plugin.models.options import SearchOptions
    from pqm_plugin.personal.opening import open_packed

    yield from _said(lambda: open_packed(folder, SearchOptions(language=AUTO), mode="small"))


def _adapters(folder: ModelFolder) -> Iterator[str]:
    """Adapters that cannot be loaded or are another base's, and folders that are none."""
    from pqm_plugin.adapters.files import check_adapter, read_info
    from pqm_plugin.files import sha256

    base = sha256(folder.packed)
    for name, adapter in folder.adapters().items():
        yield from _said(partial(safe_name, adapter.name))
        yield from _said(partial(check_adapter, adapter))
        found = _said(partial(read_info, adapter))
        yield from found
        if not found and read_info(adapter).base_sha256 != base:
            yield f"{adapter} was made for another base: enrol {name} again, or remove it"
    root = folder.path / SPEAKERS
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        if path.is_dir() and path.name not in ("log",) and not path.name.startswith(".") and not is_adapter(path):
            yield f"{path} is no whole adapter: remove it, or enrol {path.name} again"
