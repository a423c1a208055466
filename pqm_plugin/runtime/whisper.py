"""Whisper through ONNX Runtime: the words of `models/whisper.py`, without torch."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pqm_plugin.biasing import WHISPER_BONUS, Tries, WordTrie, of_those
from pqm_plugin.errors import PqmError
from pqm_plugin.models.interface import Facts, Hypothesis
from pqm_plugin.models.language import AUTO, ENGLISH, known_language
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.models.silence import cut_at_silence
from pqm_plugin.models.whisper.context import spoken
from pqm_plugin.models.whisper.guard import Attempt, Guard
from pqm_plugin.models.whisper.tables import CONFIG, read_settings
from pqm_plugin.processes import freed_memory_returned
from pqm_plugin.quantize.modes import PACKED
from pqm_plugin.runtime import processor, whisper_graphs, whisper_search
from pqm_plugin.runtime.features import WhisperMel
from pqm_plugin.runtime.layers import Shapes, lora_inputs
from pqm_plugin.runtime.tokens import Words
from pqm_plugin.runtime.weights import Lora, NotHereError, Packed, PackedModel
from pqm_plugin.runtime.whisper_search import Limits
from pqm_plugin.words import WordList

_TASK = "transcribe"
_EMBEDDING, _POSITIONS = "model.decoder.embed_tokens", "model.decoder.embed_positions.weight"
# Settings of generation that would change the search; those of transformers that are not named here do not.
_USUAL: Mapping[str, Any] = {
    **dict.fromkeys(
        ("repetition_penalty", "length_penalty", "temperature", "top_p", "encoder_repetition_penalty"), 1.0
    ),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length"), 0),
    **dict.fromkeys(("num_beams", "num_return_sequences", "num_beam_groups"), 1),
    **dict.fromkeys(("do_sample", "early_stopping", "remove_invalid_values", "renormalize_logits"), False),
    **dict.fromkeys(
        ("max_new_tokens", "min_new_tokens", "bad_words_ids", "sequence_bias", "forced_bos_token_id"), None
    ),
    **dict.fromkeys(("forced_eos_token_id", "exponential_decay_length_penalty", "guidance_scale"), None),
    **dict.fromkeys(("no_speech_threshold", "logprob_threshold", "compression_ratio_threshold"), None),
}


class RuntimeWhisper:
    """A packed Whisper and its search; adapters are given with each call, one for each piece."""

    def __init__(self, folder: Path, search: SearchOptions, *, whole: bool = False, n_threads: int = 0) -> None:
        """Build its graphs.

        Args:
            whole: compute products in float32 instead of 8 bits.
            n_threads: 0 for as many as there are cores.

        Raises:
            NotHereError: if there are no graphs for such a model.
            PqmError: if its files are damaged, or do not fit one another.
        """
        config = _read(folder / CONFIG)
        self._sizes = whisper_graphs.Sizes.of(config)
        self._settings = read_settings(folder)
        _check_usual(self._settings)
        self._mel = _mel_of(_read(folder / "preprocessor_config.json"), self._sizes)
        self._words = Words(folder)
        self._search, self._n_threads, self._whole = search, n_threads, whole
        self._clip = search.context == "clip"
        self._guard = Guard(search) if search.guard != "never" else None
        self._tries = Tries(partial(self._words.spelling, self._sizes.n_tokens), WHISPER_BONUS, search.words_weight)
        self._folder, self._window = folder, 2 * self._sizes.n_frames
        self.facts = Facts(self._mel.rate, None)
        self.max_batch = search.batch_size
        self._languages: dict[str, int] = self._known_languages()
        self.speak(search.language)
        self._adapted: Shapes = {}
        self._encoder: Any = None
        self._decoder: Any = None
        self._build()

    def _build(self) -> None:
        """Both graphs, with LoRA in the layers that are `_adapted`, and what is looked up beside them."""
        model, sizes = PackedModel(self._folder / PACKED), self._sizes
        self._encoder = self._decoder = None
        with freed_memory_returned():
            self._embedding = model.weight(_EMBEDDING, (sizes.n_tokens, sizes.width))
            self._positions = model.array(_POSITIONS, (sizes.n_positions, sizes.width))
            for place, (build, name) in enumerate(
                ((whisper_graphs.decoder, "_decoder"), (whisper_graphs.encoder, "_encoder"))
            ):
                own = {
                    layer: shapes for layer, shapes in self._adapted.items() if _is_encoder_side(layer) == bool(place)
                }
                graph = build(model, sizes, own, whole=self._whole, clip=self._clip)
                setattr(self, name, processor.session(graph, self._n_threads))
        model.check_all_used()

    def _known_languages(self) -> dict[str, int]:
        if not self._settings["is_multilingual"]:
            return {}
        return {name.strip("<|>"): number for name, number in self._settings["lang_to_id"].items()}

    def known_language(self, language: str | None, default: str) -> str:
        """The code that the model has for a language, or `auto`; None stands for `default`.

        Raises:
            PqmError: if the model does not know it.
        """
        return known_language(default if language is None else language, self._languages)

    def speak(self, language: str) -> None:
        """Give the decoder this language's token from now on.

        Raises:
            PqmError: if the model does not know it.
        """
        code = known_language(language, self._languages)
        settings = self._settings
        start, silent = settings["decoder_start_token_id"], settings.get("no_timestamps_token_id")
        middle: list[int] = []
        if self._languages:
            if code == AUTO:
                code = ENGLISH if ENGLISH in self._languages else next(iter(self._languages))
            middle = [self._languages[code], settings["task_to_id"][_TASK]]
        self._prompt = (start, *middle, *([] if silent is None else [silent]))
        self._max_tokens = self._sizes.n_positions - len(self._prompt)

    def pieces(self, audio: np.ndarray) -> list[np.ndarray]:
        """Pieces that fit the window, cut where nobody speaks."""
        return cut_at_silence(audio, self.facts.sample_rate, self._window / 100)

    def recognize(
        self,
        pieces: Sequence[np.ndarray],
        adapters: Sequence[Lora] = (),
        words: Sequence[WordList | None] = (),
    ) -> list[Hypothesis]:
        """Search for the words of all pieces at once, float32 (n_samples,) each.

        Args:
            adapters: one for each piece, or none.
            words: those that each piece is expected to have, or none.
        """
        heard, tries = self._hear(pieces, adapters), self._tries.of(words)
        if self._guard is None:
            found = self._attempts(heard, tries, self._search.beam_size)
            return [each.hypothesis for each in found]
        return self._guard.recognize(
            partial(self._attempts, heard, tries),
            self._search.beam_size,
            partial(self._scored, heard),
            len(self._prompt),
            [len(piece) / self.facts.sample_rate for piece in pieces],
            expects=bool(tries),
        )

    def language_of(self, pieces: Sequence[np.ndarray], adapters: Sequence[Lora] = ()) -> str:
        """By the mean log probability of the language tokens after the start."""
        if not self._languages:
            return ENGLISH
        heard = self._hear(pieces, adapters)
        labels = np.array(list(self._languages.values()), np.int64)
        start = np.full((len(pieces), 1), self._settings["decoder_start_token_id"], np.int64)
        found = heard.forced(start, np.broadcast_to(labels, (len(pieces), 1, len(labels))))[:, 0]
        among = found - np.log(np.exp(found - found.max(1, keepdims=True)).sum(1, keepdims=True))
        return list(self._languages)[int((among - found.max(1, keepdims=True)).mean(0).argmax())]

    def _hear(self, pieces: Sequence[np.ndarray], adapters: Sequence[Lora]) -> "_Heard":
        rows = [adapter.factors for adapter in adapters]
        self._adapt(rows)
        features = [self._mel(piece) for piece in pieces]
        n_frames, weights, places = self._window, {}, {}
        if self._clip:
            found = spoken([len(row) for row in features], self._window)
            n_frames, places = found.n_frames, {"positions": found.positions}
            weights = processor.values({"weights": found.weights})
        mel = np.stack([np.concatenate([row, np.tile(row[-1:], (n_frames - len(row), 1))]) for row in features])
        inputs = {"mel": np.ascontiguousarray(mel.transpose(0, 2, 1)), **places, **self._lora(rows, encoder=True)}
        encoded = self._encoder.run_with_ort_values(None, processor.values(inputs) | weights)
        names = [output.name for output in self._encoder.get_outputs()]
        known = dict(zip(names, encoded, strict=True)) | processor.values(self._lora(rows, encoder=False)) | weights
        return _Heard(self, known, len(pieces))

    def _adapt(self, rows: Sequence[Mapping[str, tuple[np.ndarray, np.ndarray]]]) -> None:
        """See that the graphs have LoRA where these adapters have."""
        wanted = dict(self._adapted)
        for row in rows:
            for name, (down, up) in row.items():
                if name not in wanted:
                    self._check_adapted(name, down.shape, up.shape)
                    wanted[name] = ((0, *down.shape[1:]), up.shape[:1])
                elif wanted[name] != ((0, *down.shape[1:]), up.shape[:1]):
                    raise PqmError(f"an adapter of {name} has factors of {down.shape} and {up.shape}: make it again")
        if wanted.keys() != self._adapted.keys():
            self._adapted = wanted
            self._build()

    def _check_adapted(self, name: str, down: Sequence[int], up: Sequence[int]) -> None:
        own = whisper_graphs.layer_shapes(self._sizes).get(name)
        if own is None:
            raise PqmError(f"an adapter targets layer {name[:80]!r}, which this model does not have: use its own base")
        if (up[0], *down[1:]) != own:
            raise PqmError(
                f"{name} has a weight of {own}, an adapter's factors give {(up[0], *down[1:])}: make it again"
            )

    def _lora(self, rows: Sequence[Any], *, encoder: bool) -> dict[str, np.ndarray]:
        own = {name: shapes for name, shapes in self._adapted.items() if _is_encoder_side(name) == encoder}
        return lora_inputs(own, rows or [{}])

    def _limits(self, **options: Any) -> Limits:
        settings, sizes = self._settings, self._sizes
        ends = settings["eos_token_id"]
        n_prompt = min(sizes.n_positions // 2 - 1, len(self._prompt))
        return Limits(
            self._prompt,
            tuple(ends) if isinstance(ends, list) else (ends,),
            settings["pad_token_id"],
            min(settings["max_length"] + n_prompt, sizes.n_positions),
            sizes.n_tokens,
            tuple(settings.get("suppress_tokens") or ()),
            tuple(settings.get("begin_suppress_tokens") or ()),
            options.get("no_repeat_ngram_size", 0),
            [criterion.stops for criterion in options.get("stopping_criteria", ())],
        )

    def _attempts(
        self,
        heard: "_Heard",
        tries: Sequence[WordTrie | None],
        beam_size: int,
        *,
        expects: Sequence[bool] = (),
        **options: Any,
    ) -> list[Attempt]:
        tries = of_those(tries, expects)
        limits = self._limits(**options)
        step = heard.start()
        if beam_size == 1:
            found = whisper_search.greedy(step, heard.n_pieces, limits, tries)
        else:
            found = whisper_search.beam(step, heard.n_pieces, beam_size, limits, tries)
        silence = heard.silence
        rows, whole = [], []
        for each in found:
            written = each.tokens[len(self._prompt) :].tolist()
            end = next((place for place, token in enumerate(written) if token in limits.ends), None)
            rows.append(written[:end])
            # The score has one end in it, and the first of them is the one that counts.
            whole.append(end is not None and written[end] == limits.ends[0] and end < self._max_tokens)
        given = [row[: self._max_tokens] for row in rows]
        scores = [each.score for each in found] if all(whole) else heard.scores(given, limits.ends[0])
        return [
            Attempt(Hypothesis(self._words.text(row), float(score), len(own)), float(quiet), np.array(own, np.int64))
            for row, own, score, quiet in zip(rows, given, scores, silence, strict=True)
        ]

    def _scored(self, heard: "_Heard", texts: Sequence[str]) -> list[Hypothesis]:
        """Texts, one a row, as hypotheses with their scores under the model."""
        tokens = [self._words.ids(text)[: self._max_tokens] for text in texts]
        scores = heard.scores(tokens, self._limits().ends[0])
        return [Hypothesis(*row) for row in zip(texts, map(float, scores), map(len, tokens), strict=True)]

    def embedded(self, tokens: np.ndarray, first: int) -> np.ndarray:
        """Input of the decoder for tokens (R, T) of which the first stands at position `first`, float32 (R, T, D)."""
        if isinstance(self._embedding, Packed):
            rows = self._embedding.rows(tokens.reshape(-1))
        else:
            rows = self._embedding[tokens.reshape(-1)]
        return rows.reshape(*tokens.shape, -1) + self._positions[first : first + tokens.shape[1]]


class _Heard:
    """Pieces that were encoded, and the steps of the decoder over them."""

    def __init__(self, model: RuntimeWhisper, known: Mapping[str, Any], n_pieces: int) -> None:
        self._model, self._known, self.n_pieces = model, known, n_pieces
        self._session = model._decoder
        self._names = [output.name for output in self._session.get_outputs()]
        self._empty = {
            value.name: np.zeros((n_pieces, value.shape[1], 0, value.shape[3]), np.float32)
            for value in self._session.get_inputs()
            if value.name.startswith("past_")
        }
        self.silence = np.zeros(n_pieces)

    def start(self) -> whisper_search.Step:
        """A decoder at its beginning."""
        self._past, self._length = processor.values(self._empty), 0
        return self._step

    def _step(self, tokens: np.ndarray, order: np.ndarray, banned: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        no_speech = self._model._words.no_speech
        is_first = self._length == 0
        places = np.array([0, tokens.shape[1] - 1] if is_first else [0], np.int64)
        labels = np.full((len(tokens), len(places), 1), no_speech or 0, np.int64)
        found = self._run(tokens, order, banned, k, places, labels)
        if is_first and no_speech:
            self.silence = np.exp(found["chosen"].numpy()[:, 0, 0])
        return found["top"].numpy(), found["tokens"].numpy()

    def _run(
        self, tokens: np.ndarray, order: np.ndarray, banned: np.ndarray, k: int, places: np.ndarray, labels: np.ndarray
    ) -> dict[str, Any]:
        n_new = tokens.shape[1]
        places_seen = np.arange(self._length + n_new)
        mask = np.where(places_seen > self._length + np.arange(n_new)[:, None], np.float32(-np.inf), np.float32(0))
        inputs = {
            "x": self._model.embedded(tokens, self._length),
            "order": order.astype(np.int64),
            "mask": mask,
            "pieces": np.array([self.n_pieces], np.int64),
            "places": places,
            "banned": banned,
            "k": np.array([k], np.int64),
            "labels": labels,
        }
        values = self._session.run_with_ort_values(None, {**processor.values(inputs), **self._past, **self._known})
        found = dict(zip(self._names, values, strict=True))
        self._past = {name.replace("new_", "past_"): value for name, value in found.items() if name.startswith("new_")}
        self._length += n_new
        return found

    def forced(self, tokens: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Log probabilities of labels (B, T, Q) after each of the tokens (B, T) that are given."""
        self.start()
        banned = np.zeros((1, self._model._sizes.n_tokens), np.float32)
        places = np.arange(tokens.shape[1])
        found: np.ndarray = self._run(tokens, np.arange(self.n_pieces), banned, 1, places, labels)["chosen"].numpy()
        return found

    def scores(self, rows: Sequence[Sequence[int]], end: int) -> np.ndarray:
        """Log probability of each row of tokens and its end, float32 (B,)."""
        prompt = self._model._prompt
        whole = [[*prompt, *row, end] for row in rows]
        longest = max(map(len, whole))
        ids = np.array([row + [end] * (longest - len(row)) for row in whole], np.int64)
        counted = np.arange(longest - 1)[None] < np.array([[len(row) - 1] for row in whole])
        counted[:, : len(prompt) - 1] = False
        found = self.forced(ids[:, :-1], ids[:, 1:, None])[:, :, 0]
        return np.where(counted, found, 0).sum(1)


def _is_encoder_side(layer: str) -> bool:
    """Whether a layer is computed once for a piece: the encoder's, and keys and values that the decoder looks at."""
    return layer.startswith("model.encoder.") or layer.endswith((".encoder_attn.k_proj", ".encoder_attn.v_proj"))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise PqmError(f"{path} cannot be read ({str(error)[:80]}): fetch or make the model again") from error
    if not isinstance(found, dict):
        raise PqmError(f"{path} is no JSON object: fetch or make the model again")
    return found


def _check_usual(settings: Mapping[str, Any]) -> None:
    for name, usual in _USUAL.items():
        if settings.get(name) not in (None, usual):
            raise NotHereError(f"generation with {name} {str(settings[name])[:40]}")


def _mel_of(settings: Mapping[str, Any], sizes: whisper_graphs.Sizes) -> WhisperMel:
    """Whisper's features, if the folder's are these."""
    expected = {"sampling_rate": 16000, "n_fft": 400, "hop_length": 160, "dither": 0.0, "padding_value": 0.0}
    for name, value in expected.items():
        if settings.get(name, value) != value:
            raise NotHereError(f"features with {name} {str(settings[name])[:40]}")
    if settings.get("feature_size", 80) != sizes.n_mels:
        raise NotHereError(f"features of another size than the model's {sizes.n_mels}")
    length_s = settings.get("chunk_length", 30)
    if type(length_s) is not int or not 0 < length_s <= 600:
        raise NotHereError(f"features with chunk_length {str(length_s)[:40]}")
    return WhisperMel(sizes.n_mels, window_samples=length_s * 16000)
