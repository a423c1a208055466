"""Pack a model into one file: an uncompressed zip with its manifest first, and a model card."""

import hashlib
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pqm_plugin.errors import PqmError
from pqm_plugin.files import json_text, sha256, whole_file
from pqm_plugin.models.families import family_of, files_elsewhere
from pqm_plugin.personal.facts import UNKNOWN_LICENCE, facts, rounding, wer_line
from pqm_plugin.personal.folder import CARD, SAT, SPEAKERS, WORDS, ModelFolder, read_object
from pqm_plugin.personal.unpacking import ADAPTER_FILES, MANIFEST, Entry, Manifest, check_names
from pqm_plugin.quantize.modes import ABOUT, META, PACKED

_HUB_NAMES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc0-1.0"}
_CAUTION = """An adapter was measured on its own speaker's recordings; of other voices, rooms and microphones these
numbers say nothing."""
_USE = """```
pqm unpack PACK my_model && pqm transcribe my_model recording.flac
```

The adapters are ordinary PEFT folders, the weights safetensors; nothing in here is pickled."""


def card(found: Mapping[str, Any]) -> str:
    """Markdown with what the model is, its sizes, licence, hashes, and error rates with what they were measured on.

    Args:
        found: see `facts.facts`.
    """
    measured = [f"* {wer_line(row)}" for row in found["measured"]] or ["* not measured"]
    lines = [
        *_front_matter(found),
        "# A 4-bit speech recogniser with adapters for its speakers",
        *("", *_identity(found), ""),
        "## Word error rate, as measured",
        *("", *measured, "", _CAUTION, ""),
        "## Adapters",
        *("", *_adapters(found), ""),
        "## Use",
        *("", _USE, ""),
    ]
    return "\n".join(lines)


def _identity(found: Mapping[str, Any]) -> list[str]:
    bits = f"{found['bits_per_parameter']:.2f} bits a parameter" if found["bits_per_parameter"] else "unknown width"
    return [
        f"* family: {found['family']}" + (f", made of {found['source']}" if found["source"] else ""),
        f"* base: {found['parameters']:,} parameters in {found['size_bytes'] / 1e6:.2f} MB, {bits}; "
        f"in float32 {found['base_size_bytes'] / 1e6:.2f} MB",
        f"* rounding: {rounding(found)}",
        f"* licence of the base: {found['licence']}",
        f"* SHA-256 of the packed weights: `{found['sha256']}`",
        f"* SHA-256 of the base: `{found['base_sha256']}`",
    ]


def _adapters(found: Mapping[str, Any]) -> list[str]:
    rows = [_adapter_row(name, row) for name, row in found["adapters"].items()]
    head = ["| adapter | MB | parameters | learned from | SHA-256 |", "| :-- | --: | --: | :-- | :-- |"]
    return head + rows if rows else ["None."]


def _adapter_row(name: str, row: Mapping[str, Any]) -> str:
    size, count = f"{row['size_bytes'] / 1e6:.2f}", f"{row['parameters']:,}"
    return f"| `{name}` | {size} | {count} | {row['learned_from']} | `{row['sha256']}` |"


def _front_matter(found: Mapping[str, Any]) -> list[str]:
    """What the hub sorts models by; its name for a licence where there is one."""
    short = found["licence"].lower().replace(" ", "-")
    licence = short if short in _HUB_NAMES else "unknown" if found["licence"] == UNKNOWN_LICENCE else "other"
    tags = ["automatic-speech-recognition", "pqm", "nf4", "lora"]
    return ["---", f"license: {licence}", "tags:", *(f"- {tag}" for tag in tags), "---", ""]


_EPOCH = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644 << 16
# A command line names folders of its machine; a table by speaker, people.
_RESULT_META = (
    *("corpus", "set", "family", "decoding", "text_case", "base_sha256"),
    *("commit", "seed", "hardware", "date", "versions"),
)
_BY_SPEAKER = "speakers"

Content = Path | bytes
"""A file as it lies on disk, or as it is made for the pack."""


def pack(model: str | Path, out: str | Path, speakers: Sequence[str] | None = None, licence: str = "") -> Manifest:
    """Write the base once, its adapters, hashes and card into the file `out`; the same model gives the same bytes.

    Args:
        speakers: whose adapters go along; default: all of them, `()` none. The speaker-independent one always does.
        licence: of the base, if the model does not say it itself.

    Raises:
        PqmError: if a speaker is not known, a file is missing, or an adapter was made for another base.
    """
    contents = model_contents(ModelFolder.of(model), speakers, licence)
    manifest = manifest_of(contents)
    target = Path(out).expanduser()
    if target.is_dir():
        raise PqmError(f"{target} is a folder: give the pack a file name, such as {target / 'model.pqm'}")
    with whole_file(target) as scratch, zipfile.ZipFile(scratch, "w", zipfile.ZIP_STORED) as archive:
        for name, content in [(MANIFEST, manifest.to_bytes()), *contents.items()]:
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = _MODE
            info.create_system = 3
            if isinstance(content, bytes):
                archive.writestr(info, content)
                continue
            info.file_size = content.stat().st_size
            with content.open("rb") as source, archive.open(info, "w") as sink:
                shutil.copyfileobj(source, sink, 2**20)
    return manifest


def model_contents(folder: ModelFolder, speakers: Sequence[str] | None = None, licence: str = "") -> dict[str, Content]:
    """Every file that is handed on, by its name below the model's folder, the card first."""
    about = dict(folder.about()) | ({"licence": licence} if licence else {})
    found = facts(folder)
    found |= {"licence": licence or found["licence"]}
    chosen = _chosen(folder, speakers)
    found["adapters"] = {name: row for name, row in found["adapters"].items() if name in chosen}
    for name, row in found["adapters"].items():
        if row["base_sha256"] != found["sha256"]:
            raise PqmError(f"{chosen[name]} was made for another base: enrol again, or leave it out with --speakers")
    contents: dict[str, Content] = {CARD: card(found).encode(errors="backslashreplace")}
    contents |= {ABOUT: _json(about)} if about else {}
    contents |= {name: folder.path / name for name in (META, PACKED)}
    elsewhere = files_elsewhere(folder.path)
    if elsewhere:
        raise PqmError(
            f"{folder.path}: its configuration names {elsewhere[0]!r}: put the file beside the weights first"
        )
    contents |= {path.name: path for path in family_of(folder.path).side_files(folder.path)}
    for path in sorted(folder.path.glob("results*.json")):
        contents[path.name] = _json(_results(read_object(path)))
    for name, adapter in chosen.items():
        contents |= {f"{name}/{file}": adapter / file for file in ADAPTER_FILES if (adapter / file).is_file()}
        if words := folder.words(adapter):
            contents[f"{WORDS}/{adapter.name}.txt"] = words.text().encode()
    check_names(contents, str(folder.path))
    return contents


def _chosen(folder: ModelFolder, speakers: Sequence[str] | None) -> dict[str, Path]:
    if speakers is None:
        return folder.adapters()
    sat = folder.sat()
    own = {f"{SPEAKERS}/{name}": folder.known_speaker(name) for name in speakers}
    return ({SAT: sat} if sat else {}) | own


def manifest_of(contents: Mapping[str, Content]) -> Manifest:
    """Sizes and hashes of what is handed on."""
    return Manifest({name: _entry(content) for name, content in contents.items()})


def _entry(content: Content) -> Entry:
    if isinstance(content, bytes):
        return Entry(len(content), hashlib.sha256(content).hexdigest())
    return Entry(content.stat().st_size, sha256(content))


def _results(found: Mapping[str, Any]) -> dict[str, Any]:
    """A table of results without what tells of a machine or of people one by one."""
    meta = {name: found["meta"][name] for name in _RESULT_META if name in found["meta"]}
    systems = {
        key: {name: value for name, value in row.items() if name != _BY_SPEAKER}
        for key, row in found["systems"].items()
    }
    return {"meta": meta, "systems": systems, "comparisons": found.get("comparisons", [])}


def _json(value: Any) -> bytes:
    return (json_text(value, indent=2) + "\n").encode()
