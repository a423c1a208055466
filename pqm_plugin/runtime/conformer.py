"""A Conformer AED of ESPnet through ONNX Runtime: the words of `models/espnet/model.py`, without torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pqm_plugin.biasing import ESPNET_BONUS, Spelling, Tries, WordTrie
from pqm_plugin.errors import PqmError
from pqm_plugin.models.espnet import folder as espnet_folder
from pqm_plugin.models.interface import Hypothesis
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.models.repetition import compression_ratio, without_loops
from pqm_plugin.processes import freed_memory_returned
from pqm_plugin.quantize.modes import PACKED
from pqm_plugin.runtime import conformer_graphs, joint_search, processor
from pqm_plugin.runtime.features import WINDOWS, EspnetMel
from pqm_plugin.runtime.joint_search import BeamOptions, Found
from pqm_plugin.runtime.layers import Shapes, lora_inputs
from pqm_plugin.runtime.tokens import espnet_words
from pqm_plugin.runtime.weights import Lora, NotHereError, Packed, PackedModel
from pqm_plugin.words import WordList

_EMBEDDING = "decoder.embed.0"
_PRE_BEAM = 1.5  # of ESPnet's search, times the beam
_WINDOW_MARGIN = 100
_SYMBOLS = (("blank", "<blank>"), ("sos", "<sos/eos>"), ("eos", "<sos/eos>"))
# ESPnet's defaults of its frontend; filters are in the packed file, whatever they were made with.
_FRONTEND: Mapping[str, Any] = {
    **{"n_fft": 512, "win_length": None, "hop_length": 128, "window": "hann", "center": True, "normalized": False},
    **{"onesided": True, "apply_stft": True, "frontend_conf": None, "fs": 16000},
    **dict.fromkeys(("n_mels", "fmin", "fmax", "htk")),
}
_SHORTEST_HOP = 16
_MOST_MELS = 10000
_NARROW = 256


class RuntimeConformer:
    """A packed Conformer AED and its search; adapters are given with each call, one for each piece."""

    def __init__(self, folder: Path, search: SearchOptions, *, n_threads: int = 0) -> None:
        """Build its graphs.

        Args:
            n_threads: 0 for as many as there are cores.

        Raises:
            NotHereError: if there are no graphs for such a model.
            PqmError: if its files are damaged, or do not fit one another.
        """
        if elsewhere := espnet_folder.files_elsewhere(folder):
            raise PqmError(
                f"{folder}: its configuration names {elsewhere[0]!r}, which is outside of it: only a model whose "
                "files lie together is opened"
            )
        config = {**espnet_folder.DEFAULTS, **espnet_folder.read_config(folder)}
        _check_parts(config)
        self._tokens = espnet_folder.token_list(config)
        self._write = espnet_words(config)
        self._folder, self._search, self._n_threads = folder, search, n_threads
        self.facts = espnet_folder.facts_of(config)
        self.max_batch = search.batch_size
        self._tries = Tries(self._spelling, ESPNET_BONUS, search.words_weight)
        self._options = _beam_options(config.get("model_conf") or {}, self._tokens, search)
        model = PackedModel(folder / PACKED)
        self._mel = _mel_of(config, model)
        self._sizes = conformer_graphs.Sizes.of(config, self._mel.filters.shape[1], len(self._tokens))
        self._adapted: Shapes = {}
        self._encoder: Any = None
        self._decoder: Any = None
        self._build(model)

    def _build(self, model: PackedModel) -> None:
        """Both graphs, with LoRA in the layers that are `_adapted`, and what is looked up beside them."""
        sizes, decodes = self._sizes, bool(self._options.decoder_weight)
        self._encoder = self._decoder = None
        sides = {
            side: {name: shapes for name, shapes in self._adapted.items() if self._is_asked(name, side)}
            for side in (True, False)
        }
        with freed_memory_returned():
            built = conformer_graphs.encoder(model, sizes, sides[True], decodes=decodes)
            self._encoder = processor.session(built, self._n_threads)
            if decodes:
                self._embedding = model.weight(_EMBEDDING, (sizes.n_tokens, sizes.width))
                built = conformer_graphs.decoder(model, sizes, sides[False])
                # A step of a narrow decoder is too little to be shared.
                n_threads = 1 if sizes.width <= _NARROW else self._n_threads
                self._decoder = processor.session(built, n_threads)
            del built
        model.check_all_used(("frontend.", "normalize.", *(() if decodes else ("decoder.",))))

    def _is_asked(self, layer: str, encoder: bool) -> bool:
        """Whether a layer is in a graph that this search has."""
        decodes = bool(self._options.decoder_weight)
        return conformer_graphs.is_encoder_side(layer) == encoder and (decodes or not layer.startswith("decoder."))

    def known_language(self, language: str | None, default: str) -> str:
        """The model writes what it was trained on.

        Raises:
            PqmError: if a language is named.
        """
        if language is not None:
            raise PqmError(
                f"language {language!r}: a model of ESPnet AED writes what it was trained on and cannot be told: "
                "leave --language out"
            )
        return default

    def speak(self, language: str) -> None:
        """Nothing: there is one language."""

    def language_of(self, pieces: Sequence[np.ndarray], adapters: Sequence[Lora] = ()) -> str:
        """Nothing that the model could tell."""
        return ""

    def pieces(self, audio: np.ndarray) -> list[np.ndarray]:
        """The audio as it is: there is no window."""
        return [audio]

    def recognize(
        self,
        pieces: Sequence[np.ndarray],
        adapters: Sequence[Lora] = (),
        words: Sequence[WordList | None] = (),
    ) -> list[Hypothesis]:
        """Search for the words of all pieces at once, float32 (n_samples,) each; none where one is too short.

        Args:
            adapters: one for each piece, or none.
            words: those that each piece is expected to have, or none.

        Raises:
            PqmError: if the model cannot write one of `words`.
        """
        tries = self._tries.of(words)
        rows = [adapter.factors for adapter in adapters]
        self._adapt(rows)
        features = [self._mel(piece) for piece in pieces]
        # As ESPnet, which asks the longest of a batch: what is shorter has frames where the convolutions have.
        if max(map(len, features)) < self._sizes.least_frames:
            features = [row[:0] for row in features]
        encoded = [self._encode(row, rows[place : place + 1]) for place, row in enumerate(features)]
        found = self._searched(encoded, rows, tries)
        if tries and self._search.guard == "always" and any(map(self._repeats, found)):
            plain = self._searched(encoded, rows, ())
            found = [two if self._repeats(one) else one for one, two in zip(found, plain, strict=True)]
        return without_loops(found, self._search, lambda: [self._best_path(row["ctc"][0]) for row in encoded])

    def _searched(
        self, encoded: Sequence[dict[str, np.ndarray]], rows: Sequence[Any], tries: Sequence[WordTrie | None]
    ) -> list[Hypothesis]:
        frames = [row["ctc"][0] for row in encoded]
        decoder = None
        if self._decoder:
            decoder = _Steps(self, encoded, self._lora(rows or [{}] * len(encoded), encoder=False))
        return [self._hypothesis(one) for one in joint_search.search(frames, decoder, self._options, tries)]

    def _repeats(self, found: Hypothesis) -> bool:
        """Whether it repeats itself, as one may that expects words."""
        return compression_ratio(found.text) > self._search.compression_ratio_threshold

    def _spelling(self) -> Spelling:
        marks = (place for place, piece in enumerate(self._tokens) if piece.startswith("<") and piece != "<space>")
        silent = {self._options.blank, self._options.start, self._options.end, *marks}
        return Spelling.of_pieces(self._tokens, silent, self.facts.symbols or frozenset())

    def _hypothesis(self, found: Found | None) -> Hypothesis:
        if found is None:
            return Hypothesis(text="", score=0.0, n_tokens=0)
        return Hypothesis(self._text(found.tokens), found.score, len(found.tokens))

    def _best_path(self, frames: np.ndarray) -> str:
        path = frames.argmax(1)
        return self._text(path[np.diff(path, prepend=-1) != 0].tolist())

    def _text(self, ids: Sequence[int]) -> str:
        return self._write([self._tokens[token] for token in ids if token != self._options.blank])

    def _encode(self, features: np.ndarray, rows: Sequence[Any]) -> dict[str, np.ndarray]:
        """Outputs of the encoder for one piece, which has no frames where it is too short for the convolutions."""
        sizes = self._sizes
        n_frames = sizes.subsampled(len(features)) if len(features) else 0
        outputs = self._encoder.get_outputs()
        if n_frames < 1:
            shapes = [[size if isinstance(size, int) else 0 for size in output.shape] for output in outputs]
            return {output.name: np.zeros(shape, np.float32) for output, shape in zip(outputs, shapes, strict=True)}
        inputs = {
            "features": features[None],
            "positions": conformer_graphs.relative_positions(n_frames, sizes.width),
            **conformer_graphs.shift_of(n_frames, sizes.encoder_heads),
            **self._lora(rows or [{}], encoder=True),
        }
        found = self._encoder.run(None, inputs)
        return dict(zip([output.name for output in outputs], found, strict=True))

    def _adapt(self, rows: Sequence[Mapping[str, tuple[np.ndarray, np.ndarray]]]) -> None:
        """See that the graphs have LoRA where these adapters have."""
        wanted = dict(self._adapted)
        for row in rows:
            for name, (down, up) in row.items():
                shapes = ((0, *down.shape[1:]), up.shape[:1])
                if name not in wanted:
                    self._check_adapted(name, down.shape, up.shape)
                    wanted[name] = shapes
                elif wanted[name] != shapes:
                    raise PqmError(f"an adapter of {name} has factors of {down.shape} and {up.shape}: make it again")
        if wanted.keys() != self._adapted.keys():
            self._adapted = wanted
            self._build(PackedModel(self._folder / PACKED))

    def _check_adapted(self, name: str, down: Sequence[int], up: Sequence[int]) -> None:
        own = conformer_graphs.layer_shapes(self._sizes).get(name)
        if own is None:
            raise PqmError(
                f"an adapter targets layer {name[:80]!r}, which the graphs here do not adapt: use --runtime torch"
            )
        if (up[0], *down[1:]) != own:
            raise PqmError(
                f"{name} has a weight of {own}, an adapter's factors give {(up[0], *down[1:])}: make it again"
            )

    def _lora(self, rows: Sequence[Any], *, encoder: bool) -> dict[str, np.ndarray]:
        return lora_inputs(
            {name: shapes for name, shapes in self._adapted.items() if self._is_asked(name, encoder)}, rows
        )

    def embedded(self, tokens: np.ndarray, step: int) -> np.ndarray:
        """Input of the decoder for tokens (R,) at a step, float32 (R, width)."""
        if isinstance(self._embedding, Packed):
            rows = self._embedding.rows(tokens)
        else:
            rows = self._embedding[tokens]
        width = self._sizes.width
        position = conformer_graphs.absolute_positions(np.array([step], np.float32), width)
        found: np.ndarray = rows * np.float32(width**0.5) + position
        return found


class _Steps:
    """The decoder over pieces that were encoded."""

    def __init__(
        self, model: RuntimeConformer, heard: Sequence[Mapping[str, np.ndarray]], lora: Mapping[str, np.ndarray]
    ) -> None:
        self._model, self._session = model, model._decoder
        self._known = {**_stacked(heard), **lora}
        self._given = processor.values(self._known)
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._past = processor.values(
            {
                value.name: np.zeros((len(heard), value.shape[1], 0, value.shape[3]), np.float32)
                for value in self._session.get_inputs()
                if value.name.startswith("past_")
            }
        )
        # The row of the past where each piece's hypotheses begin.
        self._first, self._n_steps = np.arange(len(heard)), 0

    def step(self, tokens: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Log probabilities (B, H, V) after tokens (B, H), which go on from the hypotheses `order` (B, H) of before."""
        n_pieces, n_hypotheses = tokens.shape
        inputs = {
            "x": self._model.embedded(tokens.reshape(-1), self._n_steps),
            "order": (self._first[:, None] + order).reshape(-1),
            "pieces": np.array([n_pieces], np.int64),
        }
        found = self._session.run_with_ort_values(None, {**processor.values(inputs), **self._past, **self._given})
        by_name = dict(zip(self._outputs, found, strict=True))
        scores: np.ndarray = by_name.pop("scores").numpy().reshape(n_pieces, n_hypotheses, -1)
        self._past = {name.replace("new_", "past_"): value for name, value in by_name.items()}
        self._first, self._n_steps = np.arange(n_pieces) * n_hypotheses, self._n_steps + 1
        return scores

    def keep(self, pieces: np.ndarray) -> None:
        """Go on with these pieces alone, int64 (n,)."""
        self._first = self._first[pieces]
        self._known = {name: value[pieces] for name, value in self._known.items()}
        self._given = processor.values(self._known)


def _stacked(heard: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Keys and values of pieces as one batch, and which of their frames are heard, as what is added to scores."""
    lengths = [row["ctc"].shape[1] for row in heard]
    longest = max(lengths)
    known = {"heard": np.zeros((len(heard), 1, 1, longest), np.float32)}
    for piece, length in enumerate(lengths):
        known["heard"][piece, ..., length:] = -np.inf
    for name in heard[0]:
        axis = {"key": 3, "value": 2}.get(name.partition("_")[0])
        if axis is None:
            continue
        if len(heard) == 1:
            known[name] = heard[0][name]
            continue
        shape = list(heard[0][name].shape)
        shape[0], shape[axis] = len(heard), longest
        known[name] = np.zeros(shape, np.float32)
        for piece, (row, length) in enumerate(zip(heard, lengths, strict=True)):
            known[name][piece][(*[slice(None)] * (axis - 1), slice(length))] = row[name][0]
    return known


def _check_parts(config: Mapping[str, Any]) -> None:
    """See that nothing stands between the parts that the graphs have."""
    for name, only in (
        *(("preencoder", (None,)), ("postencoder", (None,)), ("input_size", (None,)), ("frontend", ("default",))),
        *(("normalize", (None, "utterance_mvn", "global_mvn")), ("model", (None, "espnet"))),
    ):
        if config.get(name) not in only:
            raise NotHereError(f"{name} {str(config[name])[:40]}")


def _beam_options(conf: Mapping[str, Any], tokens: Sequence[str], search: SearchOptions) -> BeamOptions:
    """What ESPnet's `Speech2Text` makes of the search."""
    blank, start, end = (conf.get(f"sym_{name}", usual) for name, usual in _SYMBOLS)
    if (tokens.index(blank) if blank in tokens else 0) != 0:
        raise NotHereError("a blank that is not the first token")
    if conf.get("transducer_multi_blank_durations"):
        raise NotHereError("a model of transducers")
    first, last = (tokens.index(name) if name in tokens else len(tokens) - 1 for name in (start, end))
    if first != last:
        raise NotHereError("a start that is another token than the end")
    pre_beam = int(_PRE_BEAM * search.beam_size)
    joint = 0 < search.ctc_weight < 1
    return BeamOptions(
        beam_size=search.beam_size,
        pre_beam_size=pre_beam if joint and pre_beam < len(tokens) else 0,
        decoder_weight=1 - search.ctc_weight,
        ctc_weight=search.ctc_weight,
        length_weight=search.length_bonus,
        max_length_ratio=search.max_length_ratio,
        window_margin=_WINDOW_MARGIN,
        n_tokens=len(tokens),
        blank=0,
        start=first,
        end=last,
    )


def _mel_of(config: Mapping[str, Any], model: PackedModel) -> EspnetMel:
    """ESPnet's features, if the configuration's are these."""
    found = config.get("frontend_conf") or {}
    for name in found:
        if name not in _FRONTEND:
            raise NotHereError(f"frontend_conf with {str(name)[:40]}")
    conf = {**_FRONTEND, **found}
    inner = conf["frontend_conf"] or {}
    if not isinstance(inner, Mapping) or inner.get("use_wpe") or inner.get("use_beamformer"):
        raise NotHereError("a frontend that removes noise")
    if conf["apply_stft"] is not True or conf["onesided"] is not True or conf["window"] not in WINDOWS:
        raise NotHereError(f"a frontend with window {str(conf['window'])[:40]}, or without its own transform")
    n_fft, hop = conf["n_fft"], conf["hop_length"]
    win_length = n_fft if conf["win_length"] is None else conf["win_length"]
    if not all(type(size) is int for size in (n_fft, hop, win_length)) or hop < _SHORTEST_HOP:
        raise NotHereError(f"a frontend with n_fft {str(n_fft)[:40]} and hop_length {str(hop)[:40]}")
    if not 0 < win_length <= n_fft:
        raise NotHereError(f"a frontend with win_length {win_length} for n_fft {n_fft}")
    n_mels = conf["n_mels"] if conf["n_mels"] is not None else 80
    if type(n_mels) is not int or not 0 < n_mels < _MOST_MELS:
        raise NotHereError(f"a frontend with n_mels {str(n_mels)[:40]}")
    return EspnetMel(
        model.array("frontend.logmel.melmat", (n_fft // 2 + 1, n_mels)),
        n_fft,
        win_length,
        hop,
        conf["window"],
        is_padded=bool(conf["center"]),
        scale=n_fft**-0.5 if conf["normalized"] else 1.0,
        **_normalisation(config, model, n_mels),
    )


def _normalisation(config: Mapping[str, Any], model: PackedModel, n_mels: int) -> dict[str, Any]:
    kind, conf = config.get("normalize"), config.get("normalize_conf") or {}
    usual: dict[str, Any] = {"norm_means": kind is not None, "norm_vars": kind == "global_mvn"}
    usual |= {"eps": 1e-20, "stats_file": None}
    for name in conf if kind else ():
        if name not in usual:
            raise NotHereError(f"normalize_conf with {str(name)[:40]}")
    asked = {**usual, **conf} if kind else usual
    found: dict[str, Any] = {"centred": bool(asked["norm_means"]), "scaled": bool(asked["norm_vars"])}
    found["epsilon"] = float(asked["eps"])
    if kind == "global_mvn":
        found |= {
            "mean": model.array("normalize.mean", (n_mels,)),
            "deviation": model.array("normalize.std", (n_mels,)),
        }
    return found
