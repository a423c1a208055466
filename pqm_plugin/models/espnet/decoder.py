"""One step of ESPnet's Transformer decoder for many hypotheses of many utterances at once."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_FIRST_ROOM = 32
_ATTENTION = ("linear_q", "linear_k", "linear_v", "linear_out", "q_norm", "k_norm", "h", "d_k")
_LAYER = ("self_attn", "src_attn", "feed_forward", "norm1", "norm2", "norm3", "normalize_before", "concat_after")
_DECODER = ("embed", "decoders", "normalize_before", "output_layer")


def misfit(decoder: Any) -> str:
    """What of `decoder` is not as the steps here need it, such as "no DecoderLayer.norm2"; empty if all is."""
    lacking = _lacking([decoder], _DECODER)
    if lacking or decoder.output_layer is None:
        return lacking or f"{type(decoder).__name__} without an output layer"
    if len(decoder.embed) != 2 or not hasattr(decoder.embed[0], "num_embeddings"):
        return f"{type(decoder).__name__} whose input is not an embedding and position"
    layers = list(decoder.decoders)
    if lacking := _lacking(layers, _LAYER):
        return lacking
    if any(getattr(layer, "sequential_attn", None) is not None for layer in layers):
        return "a decoder layer that attends to two sources"
    attentions = [attention for layer in layers for attention in (layer.self_attn, layer.src_attn)]
    other = {type(attention).__name__ for attention in attentions} - {"MultiHeadedAttention"}
    return f"decoder attention of type {', '.join(sorted(other))}" if other else _lacking(attentions, _ATTENTION)


def _lacking(modules: Iterable[Any], names: Iterable[str]) -> str:
    found = (f"no {type(module).__name__}.{name}" for module in modules for name in names if not hasattr(module, name))
    return next(found, "")


class DecoderSteps:
    """The decoder over B utterances, each with H hypotheses: rows of one batch, those of an utterance together.

    Cross-attention keys and values are computed once an utterance, and its hypotheses share them. Self-attention keys
    and values stay where they were written: a mask says which of all that an utterance ever had are a hypothesis's own,
    so that nothing is copied when hypotheses are pruned. Every layer of the network computes through its own forward,
    whatever adapter or packed weight it has.

    Source: Vaswani et al. 2017, section 3.2; ESPnet's `DecoderLayer` for the order of its parts.
    """

    def __init__(self, decoder: Any, memory: Tensor, lengths: Tensor, max_steps: int) -> None:
        """Attend to `memory`, float32 (B, T, D), whose rows have `lengths` frames, for at most `max_steps` steps."""
        self._decoder = decoder
        heard = torch.arange(memory.shape[1], device=memory.device) < lengths[:, None]
        self._heard = None if bool(heard.all()) else _added(heard)[:, None, None]  # (B, 1, 1, T)
        self._sources = [_keys_and_values(layer.src_attn, memory) for layer in decoder.decoders]
        self._past: list[tuple[Tensor, Tensor]] = []
        self._own = memory.new_zeros(len(memory), 1, 0)  # (B, H, written): 0 for its own, -inf for others
        positions = decoder.embed[1](memory.new_zeros(1, max_steps, memory.shape[2]))[0]
        self._later = positions - positions[0]
        self._n_steps = 0

    def step(self, tokens: Tensor) -> Tensor:
        """Log probabilities of the next token, float32 (B, H, V), after the last ones of each hypothesis (B, H)."""
        n_utterances, n_hypotheses = tokens.shape
        itself = _added(torch.eye(n_hypotheses, dtype=torch.bool, device=tokens.device))
        self._own = torch.cat([self._own, itself.expand(n_utterances, -1, -1)], dim=2)
        # A position's encoding is the first one's plus a constant; only so is one token enough.
        embedded = self._decoder.embed[0](tokens.reshape(-1, 1))
        x = self._decoder.embed[1](embedded)[:, 0] + self._later[self._n_steps]
        for number, layer in enumerate(self._decoder.decoders):
            x = self._layer(number, layer, x, tokens.shape)
        if self._decoder.normalize_before:
            x = self._decoder.after_norm(x)
        self._n_steps += 1
        return functional.log_softmax(self._decoder.output_layer(x), dim=-1).view(n_utterances, n_hypotheses, -1)

    def select(self, parents: Tensor) -> None:
        """Go on with the hypotheses that extend those at `parents`, int64 (B, new H), of the last step."""
        self._own = self._own.gather(1, parents[..., None].expand(-1, -1, self._own.shape[2]))

    def _layer(self, number: int, layer: Any, x: Tensor, shape: torch.Size) -> Tensor:
        """`x` (rows, D) to (rows, D)."""
        before = layer.normalize_before
        normed = layer.norm1(x) if before else x
        keys, values = self._remember(number, layer.self_attn, normed, shape)
        x = x + self._part(layer, "1", normed, _attend(layer.self_attn, normed, keys, values, self._own[:, None]))
        x = x if before else layer.norm1(x)
        normed = layer.norm2(x) if before else x
        keys, values = self._sources[number]
        x = x + self._part(layer, "2", normed, _attend(layer.src_attn, normed, keys, values, self._heard))
        x = x if before else layer.norm2(x)
        x = x + layer.feed_forward(layer.norm3(x) if before else x)
        return x if before else layer.norm3(x)

    @staticmethod
    def _part(layer: Any, number: str, x: Tensor, attended: Tensor) -> Tensor:
        if not layer.concat_after:
            return attended
        joined: Tensor = getattr(layer, f"concat_linear{number}")(torch.cat((x, attended), dim=-1))
        return joined

    def _remember(self, number: int, attention: Any, x: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Write the keys and values of `x` (rows, D) behind the earlier ones; all of them, (B, heads, written, d)."""
        fresh = _keys_and_values(attention, x.view(*shape, -1))
        written = self._own.shape[2]
        if number == len(self._past):
            self._past.append((fresh[0][:, :, :0], fresh[1][:, :, :0]))
        if written > self._past[number][0].shape[2]:
            room = max(_FIRST_ROOM * shape[1], 2 * written)
            self._past[number] = _moved(self._past[number], room)
        start = written - shape[1]
        for kept, new in zip(self._past[number], fresh, strict=True):
            kept[:, :, start:written] = new
        keys, values = self._past[number]
        return keys[:, :, :written], values[:, :, :written]


def _added(seen: Tensor) -> Tensor:
    """What is added to attention scores, so that only what is `seen` counts."""
    return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, -float("inf"))


def _moved(pair: tuple[Tensor, Tensor], room: int) -> tuple[Tensor, Tensor]:
    wider = []
    for old in pair:
        new = old.new_empty(*old.shape[:2], room, old.shape[3])
        new[:, :, : old.shape[2]] = old
        wider.append(new)
    return wider[0], wider[1]


def _keys_and_values(attention: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Of `x` (B, n, D): keys and values, both (B, heads, n, d)."""
    keys = _heads(attention, attention.linear_k(x), len(x))
    return attention.k_norm(keys), _heads(attention, attention.linear_v(x), len(x))


def _heads(attention: Any, x: Tensor, n: int) -> Tensor:
    return x.view(n, -1, attention.h, attention.d_k).transpose(1, 2)


def _attend(attention: Any, x: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None) -> Tensor:
    """Attention output of queries from `x` (rows, D) over an utterance's `keys` and `values`; `seen` is added."""
    queries = attention.q_norm(_heads(attention, attention.linear_q(x), len(keys)))
    found = functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=seen, scale=1 / math.sqrt(attention.d_k)
    )
    joined: Tensor = attention.linear_out(found.transpose(1, 2).reshape(len(x), -1))
    return joined
