"""Whisper's encoder over its window, or over places of it, and the decoder that looks at what came out."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pqm_plugin.models.whisper import library as whisper_library
from pqm_plugin.models.whisper.context import spoken


@dataclass(frozen=True)
class Encoded:
    """Rows of encoded audio float32 (B, P, D), and what attention to each place is weighted by, (B, P), or None."""

    hidden: Tensor
    weights: Tensor | None = None

    def outputs(self) -> "whisper_library.BaseModelOutput":
        """What transformers takes for an encoder's outputs; what it changes there is changed nowhere else."""
        return whisper_library.BaseModelOutput(last_hidden_state=self.hidden)


def encode(encoder: Any, features: Sequence[Tensor], window: int, *, clip: bool) -> Encoded:
    """Encode features float32 (T, D) each, with silence after them up to `window` frames.

    Args:
        clip: encode only the places that `context.spoken` names.
    """
    places = spoken([len(row) for row in features], window) if clip else None
    if places is None or places.are_all:
        mel = _filled(features, window)
        _show_strides(encoder)
        return Encoded(encoder(mel).last_hidden_state)
    mel = _filled(features, places.n_frames)
    # transformers' encoder insists on the whole window: this is its forward over a part of the positions.
    hidden = functional.gelu(encoder.conv2(functional.gelu(encoder.conv1(mel)))).mT
    # Where a convolution is replaced by what it gave, see `models/replay.py`, it has no rows.
    positions = torch.from_numpy(places.positions).to(mel.device)[: len(hidden)]
    hidden = hidden + encoder.embed_positions.weight[positions]
    weights = torch.from_numpy(places.weights).to(mel.device)
    for layer in encoder.layers:
        hidden = layer(hidden, weights[:, None, None])
    return Encoded(encoder.layer_norm(hidden), weights)


def _show_strides(encoder: Any) -> None:
    """transformers asks the convolutions for their strides, which peft's wrapping of them hides."""
    for layer in (encoder.conv1, encoder.conv2):
        if not hasattr(layer, "stride"):
            layer.stride = layer.base_layer.stride


def _filled(features: Sequence[Tensor], n_frames: int) -> Tensor:
    return torch.stack([torch.cat([row, row[-1:].expand(n_frames - len(row), -1)]) for row in features]).mT


class Weighing:
    """Lets a decoder weigh what it looks at: transformers has no way to tell it so."""

    def __init__(self, decoder: Any) -> None:
        self._weights: Tensor | None = None
        for layer in decoder.layers:
            layer.encoder_attn.register_forward_pre_hook(self._add, with_kwargs=True)

    @contextmanager
    def by(self, weights: Tensor | None) -> Iterator[None]:
        """Within it attention to the encoder's places is weighted so, float32 (B, P); None is evenly."""
        before, self._weights = self._weights, weights
        try:
            yield
        finally:
            self._weights = before

    def _add(
        self, module: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._weights is None:
            return None
        # Beams of a row follow one another.
        weights = self._weights.repeat_interleave(len(arguments[0]) // len(self._weights), 0)
        return arguments, {**keywords, "attention_mask": weights[:, None, None]}
