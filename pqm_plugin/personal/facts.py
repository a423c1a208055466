"""Describe a personal model without loading it, and check its folder for problems."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pqm_plugin.adapters.options import INFO, WEIGHTS
from pqm_plugin.errors import PqmError
from pqm_plugin.files import safe_name, sha256
from pqm_plugin.personal.folder import SPEAKERS, ModelFolder, is_adapter, read_object

UNKNOWN_LICENCE = "unknown: see the base"
_SHOWN_META = ("set", "corpus", "condition", "decoding", "commit", "seed", "date")
_MEASURES = ("utterances", "words", "wer", "wer_ci95", "wer_normalized", "cer")


def facts(folder: ModelFolder) -> dict[str, Any]:
    """Family, sizes in bytes, bits a parameter, hashes, licence, adapters, and error rates as they were measured.

    `calibrated_on` counts the recordings that weights were rounded by; 0 stands for nearest levels.

    Raises:
        PqmError: if a record is missing or damaged.
    """
    meta, about = folder.meta(), folder.about()
    size_bytes = folder.packed.stat().st_size
    parameters, settings = _number(meta.get("parameters")), _request(meta).get("quantize", {})
    adapters = {name: adapter_facts(path) for name, path in folder.adapters().items()}
    return {
        "path": str(folder.path),
        "family": str(meta.get("family", "unknown")),
        "licence": str(about.get("licence") or UNKNOWN_LICENCE),
        "source": str(about.get("source") or ""),
        "parameters": int(parameters),
        "size_bytes": size_bytes,
        "base_size_bytes": int(_number(meta.get("base_size_bytes"))),
        "bits_per_parameter": 8 * size_bytes / parameters if parameters else None,
        "sha256": meta["sha256"],
        "base_sha256": str(_request(meta).get("base_sha256", "unknown")),
        "quantize": settings,
        "calibrated_on": int(_number(settings.get("calibrate"))) if isinstance(settings, Mapping) else 0,
        "adapters": adapters,
        "measured": list(measured(folder.path)),
    }


def adapter_facts(folder: Path) -> dict[str, Any]:
    """Size in bytes, hashes, parameters of one adapter, and what it was trained on, in words."""
    info = read_object(folder / INFO)
    request = _request(info)
    n_clips = request.get("n_clips")
    found = request.get("own_words")
    kept = found.get("n_kept") if isinstance(found, Mapping) else None
    by_itself = f", {kept} stretches of its own words" if request.get("unsupervised") and isinstance(kept, int) else ""
    return {
        "size_bytes": (folder / WEIGHTS).stat().st_size,
        "sha256": sha256(folder / WEIGHTS),
        "base_sha256": str(info.get("base_sha256", "unknown")),
        "parameters": int(_number(info.get("parameters"))),
        "learned_from": f"{n_clips} recordings{by_itself}" if isinstance(n_clips, int) else "a recipe",
        "held_out": dict(held) if isinstance(held := request.get("held_out"), Mapping) else None,
    }


def measured(folder: Path) -> Iterator[dict[str, Any]]:
    """Error rates of the packed model in every `results*.json` of the folder, and what they were measured on."""
    for path in sorted(folder.glob("results*.json")):
        found = read_object(path)
        meta, systems = found.get("meta"), found.get("systems")
        if not isinstance(meta, Mapping) or not isinstance(systems, Mapping):
            raise PqmError(f"{path} is not a table of results: delete it, or run stage 7 (score) again")
        context = {name: meta[name] for name in _SHOWN_META if name in meta}
        for key, row in systems.items():
            if str(key).startswith("nf4") and isinstance(row, Mapping) and isinstance(row.get("wer"), int | float):
                yield {"file": path.name, "system": str(key), **{n: row[n] for n in _MEASURES if n in row}, **context}


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The facts for people, one a line."""
    bits = f", {found['bits_per_parameter']:.2f} bits a parameter" if found["bits_per_parameter"] else ""
    yield f"model      {found['path']} ({found['family']})"
    yield f"size       {found['size_bytes'] / 1e6:.2f} MB for {found['parameters'] / 1e6:.2f} M parameters{bits}"
    if found["base_size_bytes"]:
        ratio = found["base_size_bytes"] / found["size_bytes"]
        yield f"base       {found['base_size_bytes'] / 1e6:.2f} MB, {ratio:.2f} times this"
    yield f"rounding   {rounding(found)}"
    yield f"licence    {found['licence']}"
    yield f"sha256     {found['sha256']}"
    yield f"of base    {found['base_sha256']}"
    for name, adapter in found["adapters"].items():
        yield f"adapter    {name}: {adapter['size_bytes'] / 1e6:.2f} MB, {adapter['learned_from']}"
        if held := adapter.get("held_out"):
            words, before, after = (held.get(key) for key in ("n_words", "before", "after"))
            yield f"held out   {name}: {before} errors before, {after} after, in {words} words"
    for row in found["measured"]:
        yield f"WER        {wer_line(row)}"
    if not found["measured"]:
        yield "WER        not measured"


def rounding(found: Mapping[str, Any]) -> str:
    """How the weights came to their levels, in words."""
    n_recordings = found["calibrated_on"]
    return (
        f"by what the layers hear of {n_recordings} recordings" if n_recordings else "each weight to its nearest level"
    )


def wer_line(row: Mapping[str, Any]) -> str:
    """An error rate with what it was measured on."""
    low_high = row.get("wer_ci95")
    interval = ""
    if isinstance(low_high, list) and len(low_high) == 2 and all(isinstance(end, int | float) for end in low_high):
        interval = f" [{100 * low_high[0]:.2f}, {100 * low_high[1]:.2f}]"
    where = ", ".join(f"{name} {row[name]}" for name in ("set", "utterances", "words", "commit", "seed") if name in row)
    return f"{row['system']}: {100 * row['wer']:.2f} %{interval} ({where}; {row['file']})"


def _request(found: Mapping[str, Any]) -> Mapping[str, Any]:
    request = found.get("request")
    return request if isinstance(request, Mapping) else {}


def _number(value: Any) -> float:
    return (
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63 else 0.0
    )


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
    from pqm_plugin.personal.options import enroll_options, search_options

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
            yield f"{path} is not a whole adapter: remove it, or enrol {path.name} again"
