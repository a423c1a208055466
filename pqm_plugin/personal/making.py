"""Make a personal model of a float one: fetch it, pack it in 4 bits, calibrated if recordings are given."""

import hashlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pqm_plugin.corpus.audio import duration_s
from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.engine.packing import Packing, pack
from pqm_plugin.errors import PqmError
from pqm_plugin.files import sha256, utf8_name, whole_folder, write_json
from pqm_plugin.models.families import family_of, fetch_base
from pqm_plugin.models.interface import Recognizer
from pqm_plugin.models.language import AUTO
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal.clips import LONGEST_S
from pqm_plugin.personal.pieces import may_hold_words, pieces_of
from pqm_plugin.personal.recordings import find_recordings
from pqm_plugin.progress import Bar
from pqm_plugin.quantize.checkpoint import FORMAT_VERSION
from pqm_plugin.quantize.modes import ABOUT, META
from pqm_plugin.quantize.packed import WeightFormat

_log = logging.getLogger(__name__)


@dataclass
class CalibrationSpeech:
    """Recordings to calibrate on, in order, and how long each is in seconds, as its header says.

    `n_recordings` and `sound` are known when all was read: how many had words in them, and a hash of that sound. If it
    `finds_language`, each piece is transcribed in the language that the model finds in it.
    """

    paths: tuple[Path, ...]
    durations_s: tuple[float, ...]
    n_recordings: int = 0
    sound: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    finds_language: bool = False

    @classmethod
    def of(cls, places: Sequence[Path]) -> "CalibrationSpeech":
        """The recordings in folders, with everything below them, or the files that are named; texts are not used.

        Raises:
            PqmError: if there is none, or one cannot be read.
        """
        paths = find_recordings(places, unsupervised=True).paths
        return cls(paths, tuple(duration_s(Utterance("", "", "", str(path))) for path in paths))

    def examples(self, recognizer: Recognizer) -> Iterator[tuple[Tensor, Tensor]]:
        """Features and tokens of each piece in which the float model finds words.

        Raises:
            PqmError: at the end, if there was none.
        """
        n_samples, rate = 0, recognizer.facts.sample_rate
        with Bar(total=round(sum(self.durations_s)), desc="listen", unit="s") as progress:
            for path in self.paths:
                has_words = False
                for piece in pieces_of(recognizer, path, LONGEST_S):
                    example = _with_own_words(recognizer, piece, finds_language=self.finds_language)
                    if example is not None:
                        yield example
                        self.sound.update(piece.tobytes())
                        has_words = True
                    n_samples += len(piece)
                    progress.update(n_samples // rate - progress.n)
                self.n_recordings += has_words
        if not self.n_recordings:
            raise PqmError(
                f"the model finds no words in any of {len(self.paths)} recordings to calibrate on: give speech of its "
                "language, or leave --calibrate out"
            )
        _log.info("rounding weights by %d of %d recordings", self.n_recordings, len(self.paths))


def _with_own_words(recognizer: Recognizer, piece: np.ndarray, *, finds_language: bool) -> tuple[Tensor, Tensor] | None:
    """A piece (n_samples,) as in training, with the float model's own words; None if it has none."""
    if not may_hold_words(piece, recognizer.facts.sample_rate):
        return None
    if finds_language:
        recognizer.speak(recognizer.language_of([piece]))
    features = recognizer.features(piece)
    [words] = recognizer.greedy([features])
    tokens = recognizer.token_ids(words)
    if not len(tokens) or recognizer.reason_untrainable(features, tokens):
        return None
    return features, tokens


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
    language: str = "",
) -> dict[str, Any]:
    """Pack the model that `source` names into the new folder `out`, in NF4 with double-quantised scales.

    Args:
        source: an ESPnet experiment folder, packed zip or model-zoo tag, a Whisper folder, `.pt` file or hub
            name, or a folder or hub name of a CTC model (wav2vec2, hubert, wavlm, data2vec-audio).
        licence: of the source, as its publisher words it.
        keep: layer kinds to leave in bfloat16; default: those of `SPARED` that the model has.
        calibrate: folders of recordings, or files, by which weights are rounded so that what layers compute of speech
            changes least; without any, each weight is rounded to its nearest level.
        language: of the speech, as a name or code, or `auto` for what a multilingual model finds; kept for all who use
            the folder. Of a model that has one language it is kept as information; default: English.

    Returns:
        What was measured, as it stands in `meta.json`.

    Raises:
        PqmError: if `out` is there already, the source is not known or cannot be read, `keep` names no kind,
            there is no speech in what `calibrate` names, or the model does not know `language`.
    """
    out = utf8_name(Path(out).expanduser())
    if out.exists():
        raise PqmError(f"{out} is there already: choose another folder, or remove it first")
    speech = CalibrationSpeech.of([Path(place) for place in calibrate]) if calibrate else None
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(out) as packed:
        # Inside, so that a run that is killed leaves one thing, which the next one finds and removes.
        base = packed / _FETCHED
        family = fetch_base(source, base)
        code = family.spoken_language(base, language) if language else ""
        meta = _pack(base, packed, keep, speech, SearchOptions(language=code) if code else SearchOptions())
        shutil.rmtree(base)
        write_json(packed / META, meta)
        spoken = {"decode": {"language": code}} if code else {}
        write_json(packed / ABOUT, {"source": Path(source).name, "licence": licence, **spoken})
    return meta


def _pack(
    base: Path, packed: Path, keep: Sequence[str] | None, speech: CalibrationSpeech | None, search: SearchOptions
) -> dict[str, Any]:
    family = family_of(base)
    recognizer = family.load_float(base, search, "cpu")
    known = set(recognizer.layer_kinds().values())
    packing = Packing(_FORMAT, _REST_DTYPE, [kind for kind in SPARED if kind in known] if keep is None else keep)
    if speech:
        speech.finds_language = search.language == AUTO
    measured = pack(family, recognizer, base, packed, packing, "--keep", speech.examples if speech else None)
    settings = {
        **asdict(_FORMAT),
        "keep": list(packing.keep),
        "rest_dtype": _REST_DTYPE,
        "calibrate": speech.n_recordings if speech else 0,
    }
    request = {
        "base_sha256": sha256(family.weights_file(base)),
        "quantize": settings,
        "format_version": FORMAT_VERSION,
        **({"calibration": speech.sound.hexdigest()} if speech else {}),
    }
    return {"request": request, **measured}
