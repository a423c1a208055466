"""Make a personal model of a float one: fetch it, pack it in 4 bits, write down what it is."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pqm_plugin.errors import PqmError
from pqm_plugin.files import sha256, utf8_name, whole_folder, write_json
from pqm_plugin.models.families import family_of, fetch_base
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal.calibrating import Heard, Speech, round_by
from pqm_plugin.quantize.checkpoint import FORMAT_VERSION, load_packed, save_packed
from pqm_plugin.quantize.layers import quantize_layers
from pqm_plugin.quantize.measure import measure, weights_of
from pqm_plugin.quantize.names import ABOUT, META, PACKED
from pqm_plugin.quantize.packed import WeightFormat

_log = logging.getLogger(__name__)
SPARED = ("depthwise_conv",)
"""Layer kinds that stay in bfloat16: those that 4 bits hurt most for their bytes, see egs/librispeech/RESULTS.md."""
_FORMAT = WeightFormat(block_size=32, double_quantize=True)
_REST_DTYPE = "bfloat16"
_FETCHED = ".base"


def quantize(
    source: str,
    out: Path,
    licence: str = "",
    keep: Sequence[str] | None = None,
    calibrate: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Pack the model that `source` names into the new folder `out`, in NF4 with double-quantised scales.

    Args:
        source: an ESPnet experiment folder, packed zip or model-zoo tag, a Whisper folder, `.pt` file or hub name.
        licence: of the source, as its publisher words it.
        keep: layer kinds to leave in bfloat16; default: those of `SPARED` that the model has.
        calibrate: folders of recordings, or files, by which weights are rounded so that what layers compute of speech
            changes least; without any, each weight is rounded to its nearest level.

    Returns:
        What was measured, as it stands in `meta.json`.

    Raises:
        PqmError: if `out` is there already, the source is not known or cannot be read, `keep` names no kind, or
            there is no speech in what `calibrate` names.
    """
    out = utf8_name(Path(out).expanduser())
    if out.exists():
        raise PqmError(f"{out} is there already: choose another folder, or remove it first")
    speech = Speech.of([Path(place) for place in calibrate]) if calibrate else None
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(out) as packed:
        # Inside, so that a run that is killed leaves one thing, which the next one finds and removes.
        base = packed / _FETCHED
        fetch_base(source, base)
        meta = _pack(base, packed, keep, speech)
        shutil.rmtree(base)
        write_json(packed / META, meta)
        write_json(packed / ABOUT, {"source": Path(source).name, "licence": licence})
    return meta


def _pack(base: Path, packed: Path, keep: Sequence[str] | None, speech: Speech | None) -> dict[str, Any]:
    family = family_of(base)
    weights = family.weights_file(base)
    recognizer = family.load_float(base, SearchOptions(), "cpu")
    kinds = recognizer.layer_kinds()
    spared = _spared(kinds, keep)
    chosen = {name: kind for name, kind in kinds.items() if kind not in spared}
    before = weights_of(recognizer.network, chosen)
    heard = _round(recognizer, list(chosen), speech)
    for path in family.side_files(base):
        shutil.copyfile(path, packed / path.name)
    save_packed(packed / PACKED, recognizer.network, _REST_DTYPE, recognizer.built_in)
    # Loading it back now means that nobody meets a file that cannot be read.
    load_packed(packed / PACKED, family.load_skeleton(packed, SearchOptions(), "cpu").network)
    size, base_size = (packed / PACKED).stat().st_size, weights.stat().st_size
    settings = {
        **asdict(_FORMAT),
        "keep": spared,
        "rest_dtype": _REST_DTYPE,
        "calibrate": heard.n_recordings if heard else 0,
    }
    request = {"base_sha256": sha256(weights), "quantize": settings, "format_version": FORMAT_VERSION}
    return {
        "request": request | ({"calibration": heard.sha256} if heard else {}),
        "family": family.NAME,
        **measure(recognizer.network, chosen, before),
        "size_bytes": size,
        "sha256": sha256(packed / PACKED),
        "base_size_bytes": base_size,
        "ratio": base_size / size,
    }


def _spared(kinds: Mapping[str, str], keep: Sequence[str] | None) -> list[str]:
    """The layer kinds to leave in bfloat16.

    Raises:
        PqmError: if `keep` names one that the model has not.
    """
    known = set(kinds.values())
    unknown = sorted(set(keep or ()) - known)
    if unknown:
        raise PqmError(f"--keep {unknown[0]}: no layer is of this kind; there are {', '.join(sorted(known))}")
    return [kind for kind in (SPARED if keep is None else keep) if kind in known]


def _round(recognizer: Recognizer, names: Sequence[str], speech: Speech | None) -> Heard | None:
    """Quantise the named layers, in place: by speech, or to nearest levels."""
    if speech is not None:
        return round_by(recognizer, names, speech, _FORMAT)
    quantize_layers(recognizer.network, names, _FORMAT)
    return None
