"""Whisper as two graphs: the encoder with the keys and values that the decoder looks at, and a step of the decoder."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from pqm_plugin.runtime.graph import INT64, Graph
from pqm_plugin.runtime.layers import Layers, Shapes
from pqm_plugin.runtime.weights import NotHereError, PackedModel

_MOST_FRAMES = 30000  # ten minutes: what a stranger's configuration may ask for without weights beside it
_POSITIONS = "model.encoder.embed_positions.weight"


@dataclass(frozen=True)
class Sizes:
    """Of a Whisper model: `width` of its layers, `n_inner_*` of their feed-forward parts."""

    width: int
    n_mels: int
    n_encoder: int
    n_decoder: int
    encoder_heads: int
    decoder_heads: int
    encoder_inner: int
    decoder_inner: int
    n_frames: int
    n_positions: int
    n_tokens: int
    tied: bool

    @classmethod
    def of(cls, config: dict[str, Any]) -> Self:
        """By a folder's configuration.

        Raises:
            NotHereError: if the graphs here are not of such a model.
        """
        names = {
            "width": "d_model",
            "n_mels": "num_mel_bins",
            "n_encoder": "encoder_layers",
            "n_decoder": "decoder_layers",
            "encoder_heads": "encoder_attention_heads",
            "decoder_heads": "decoder_attention_heads",
            "encoder_inner": "encoder_ffn_dim",
            "decoder_inner": "decoder_ffn_dim",
            "n_frames": "max_source_positions",
            "n_positions": "max_target_positions",
            "n_tokens": "vocab_size",
        }
        values: dict[str, Any] = {name: config.get(key) for name, key in names.items()}
        for name, value in values.items():
            if type(value) is not int or value < 1:
                raise NotHereError(f"config.json does not say {names[name]}")
        for key, expected in (("activation_function", "gelu"), ("scale_embedding", False)):
            if config.get(key, expected) != expected:
                raise NotHereError(f"{key} {str(config[key])[:40]}")
        if int(values["n_frames"]) > _MOST_FRAMES:
            raise NotHereError(f"a window of {values['n_frames']} frames")
        found = cls(**values, tied=bool(config.get("tie_word_embeddings", True)))
        if found.width % found.encoder_heads or found.width % found.decoder_heads:
            raise NotHereError("heads that do not divide the width")
        return found


def positions_of(model: PackedModel, sizes: Sizes) -> np.ndarray:
    """What is added to the encoder's frames, float32 (frames, width): sinusoids where the file has none."""
    if _POSITIONS not in model.built_in:
        return model.array(_POSITIONS, (sizes.n_frames, sizes.width))
    half = sizes.width // 2
    rates = np.exp(-np.log(10000.0) / (half - 1) * np.arange(half, dtype=np.float32)).astype(np.float32)
    angles = np.arange(sizes.n_frames, dtype=np.float32)[:, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], 1)


def encoder(model: PackedModel, sizes: Sizes, adapted: Shapes, *, whole: bool = False, clip: bool = False) -> bytes:
    """From `mel` float32 (B, D, T) to `key_<i>` (B, heads, width, P) and `value_<i>` (B, heads, P, width).

    P is T / 2. With `clip` there are two more inputs, `positions` int64 (B, P) and `weights` float32 (B, P) of places,
    see `models/whisper/context.py`.
    """
    graph = Graph()
    layers = Layers(graph, model, adapted, whole)
    width, heads, at = sizes.width, sizes.encoder_heads, "model.encoder"
    x = graph.input("mel", ["pieces", sizes.n_mels, "frames"])
    x = layers.gelu(layers.convolution(x, f"{at}.conv1", (width, sizes.n_mels, 3), 1))
    x = layers.gelu(layers.convolution(x, f"{at}.conv2", (width, width, 3), 2))
    x = graph.add("Transpose", x, perm=[0, 2, 1])
    table, weights = graph.constant(positions_of(model, sizes)), ""
    if clip:
        positions = graph.input("positions", ["pieces", "rows"], INT64)
        x = graph.add("Add", x, graph.add("Gather", table, positions, axis=0))
        weights = graph.add("Unsqueeze", graph.input("weights", ["pieces", "rows"]), graph.ints(2, 3))
    else:
        n_rows = graph.add("Slice", graph.add("Shape", x), graph.ints(1), graph.ints(2))
        x = graph.add("Add", x, graph.add("Slice", table, graph.ints(0), n_rows, graph.ints(0)))
    for place in range(sizes.n_encoder):
        name = f"{at}.layers.{place}"
        x = graph.add("Add", x, _self_attention(layers, x, name, width, heads, weights))
        x = graph.add("Add", x, _feed_forward(layers, x, name, width, sizes.encoder_inner))
    x = layers.norm(x, f"{at}.layer_norm", width)
    each = width // sizes.decoder_heads
    for place in range(sizes.n_decoder):
        # Layer by layer: the keys and values of all are most of what the encoder takes in memory.
        names = [f"model.decoder.layers.{place}.encoder_attn.{kind}_proj" for kind in "kv"]
        key, value = layers.linear(x, names, width, [width] * 2, unbiased=names[:1])
        key = layers.heads(key, sizes.decoder_heads, each, (0, 2, 3, 1))
        graph.output(key, f"key_{place}", ["pieces", sizes.decoder_heads, each, "rows"])
        value = layers.heads(value, sizes.decoder_heads, each)
        graph.output(value, f"value_{place}", ["pieces", sizes.decoder_heads, "rows", each])
    return graph.serialized()


def _self_attention(layers: Layers, x: str, name: str, width: int, heads: int, weights: str) -> str:
    x = layers.norm(x, f"{name}.self_attn_layer_norm", width)
    names = [f"{name}.self_attn.{kind}_proj" for kind in "qkv"]
    query, key, value = layers.linear(x, names, width, [width] * 3, unbiased=names[1:2])
    scale = float((width // heads) ** -0.5)
    if weights:
        query, key = _weighed(layers.graph, query, key, weights, heads, width // heads, scale)
    found = layers.graph.add(
        "MultiHeadAttention", query, key, value, domain="com.microsoft", num_heads=heads, scale=scale
    )
    return layers.linear(found, [f"{name}.self_attn.out_proj"], width, [width])[0]


def _weighed(graph: Graph, query: str, key: str, weights: str, heads: int, each: int, scale: float) -> tuple[str, str]:
    """Queries and keys (B, P, heads * each) with one more feature a head, which adds the key's weight to a score.

    ONNX Runtime could add a matrix to the scores, but then computes the scores of all places at once, in memory that
    grows with their square.
    """
    split, joined = graph.ints(0, 0, heads, each), graph.ints(0, 0, heads * (each + 1))
    query = graph.add("Reshape", query, split)
    one = graph.constant(np.float32(1 / scale))
    query = graph.add("Pad", query, graph.ints(0, 0, 0, 0, 0, 0, 0, 1), one)
    own = graph.add("Expand", weights, graph.ints(1, 1, heads, 1))
    key = graph.add("Concat", graph.add("Reshape", key, split), own, axis=3)
    return graph.add("Reshape", query, joined), graph.add("Reshape", key, joined)


def _feed_forward(layers: Layers, x: str, name: str, width: int, inner: int) -> str:
    [found] = layers.linear(layers.norm(x, f"{name}.final_layer_norm", width), [f"{name}.fc1"], width, [inner])
    return layers.linear(layers.gelu(found), [f"{name}.fc2"], inner, [width])[0]


def decoder(model: PackedModel, sizes: Sizes, adapted: Shapes, *, whole: bool = False, clip: bool = False) -> bytes:
    """A step of R hypotheses of B pieces, R a multiple of B, over T tokens after L earlier ones.

    Inputs: `x` float32 (R, T, width), embeddings with positions; `order` int64 (R,), the rows of the earlier keys and
    values that each hypothesis goes on from; `mask` float32 (T, L + T), added to scores; `pieces` int64 (1,), B;
    `places` int64 (P,), which of the T are asked; `banned` float32 (1 or R, V), added to log probabilities; `k` int64
    (1,); `labels` int64 (R, P, Q); earlier `past_key_<i>`, `past_value_<i>` (R', heads, L, width); `key_<i>`,
    `value_<i>`; with `clip` the `weights` float32 (B, P') of the places that were encoded.

    Outputs: `top` float32 and `tokens` int64 (R, k), the likeliest after the last asked place, `chosen` float32
    (R, P, Q), the log probabilities of the labels, `new_key_<i>` and `new_value_<i>` (R, heads, L + T, width).
    """
    graph = Graph()
    layers = Layers(graph, model, adapted, whole)
    width = sizes.width
    x = graph.input("x", ["rows", "steps", width])
    graph.input("order", ["rows"], INT64)
    graph.input("mask", ["steps", "all"])
    graph.input("pieces", [1], INT64)
    places, banned = graph.input("places", ["asked"], INT64), graph.input("banned", ["one_or_rows", sizes.n_tokens])
    k, labels = graph.input("k", [1], INT64), graph.input("labels", ["rows", "asked", "each"], INT64)
    bias = graph.add("Unsqueeze", graph.input("weights", ["pieces", "frames"]), graph.ints(1, 2)) if clip else ""
    for place in range(sizes.n_decoder):
        name = f"model.decoder.layers.{place}"
        x = graph.add("Add", x, _cached_attention(layers, x, name, place, sizes))
        x = graph.add("Add", x, _cross_attention(layers, x, name, place, sizes, bias))
        x = graph.add("Add", x, _feed_forward(layers, x, name, width, sizes.decoder_inner))
    x = layers.norm(graph.add("Gather", x, places, axis=1), "model.decoder.layer_norm", width)
    [logits] = layers.linear(x, ["proj_out"], width, [sizes.n_tokens], unbiased=["proj_out"])
    found = graph.add("LogSoftmax", logits, axis=-1)
    graph.output(graph.add("GatherElements", found, labels, axis=2), "chosen", ["rows", "asked", "each"])
    last = graph.add("Gather", found, graph.constant(np.int64(-1)), axis=1)
    top, tokens = graph.add_many("TopK", [graph.add("Add", last, banned), k], 2, axis=-1)
    graph.output(top, "top", ["rows", "k"])
    graph.output(tokens, "tokens", ["rows", "k"], INT64)
    return graph.serialized()


def _cached_attention(layers: Layers, x: str, name: str, place: int, sizes: Sizes) -> str:
    graph, width, heads = layers.graph, sizes.width, sizes.decoder_heads
    each = width // heads
    x = layers.norm(x, f"{name}.self_attn_layer_norm", width)
    names = [f"{name}.self_attn.{kind}_proj" for kind in "qkv"]
    query, *fresh = layers.linear(x, names, width, [width] * 3, unbiased=names[1:2])
    kept = []
    for kind, new in zip(("key", "value"), fresh, strict=True):
        past = graph.input(f"past_{kind}_{place}", ["earlier", heads, "past", each])
        past = graph.add("Gather", past, "order", axis=0)
        kept.append(graph.add("Concat", past, layers.heads(new, heads, each), axis=2))
        graph.output(kept[-1], f"new_{kind}_{place}", ["rows", heads, "all", each])
    query = graph.add("Mul", layers.heads(query, heads, each), graph.constant(np.float32(each**-0.5)))
    scores = graph.add("MatMul", query, graph.add("Transpose", kept[0], perm=[0, 1, 3, 2]))
    weights = graph.add("Softmax", graph.add("Add", scores, "mask"), axis=-1)
    found = graph.add("Transpose", graph.add("MatMul", weights, kept[1]), perm=[0, 2, 1, 3])
    found = graph.add("Reshape", found, graph.ints(0, 0, width))
    return layers.linear(found, [f"{name}.self_attn.out_proj"], width, [width])[0]


def _cross_attention(layers: Layers, x: str, name: str, place: int, sizes: Sizes, bias: str) -> str:
    """All hypotheses of a piece look at its keys and values together."""
    graph, width, heads = layers.graph, sizes.width, sizes.decoder_heads
    each = width // heads
    key = graph.input(f"key_{place}", ["pieces", heads, each, "frames"])
    value = graph.input(f"value_{place}", ["pieces", heads, "frames", each])
    x = layers.norm(x, f"{name}.encoder_attn_layer_norm", width)
    [query] = layers.linear(x, [f"{name}.encoder_attn.q_proj"], width, [width])
    query = graph.add("Mul", query, graph.constant(np.float32(each**-0.5)))
    together = graph.add("Concat", "pieces", graph.ints(-1, heads, each), axis=0)
    query_by_piece = graph.add("Transpose", graph.add("Reshape", query, together), perm=[0, 2, 1, 3])
    scores = graph.add("MatMul", query_by_piece, key)
    weights = graph.add("Softmax", graph.add("Add", scores, bias) if bias else scores, axis=-1)
    found = graph.add("Transpose", graph.add("MatMul", weights, value), perm=[0, 2, 1, 3])
    found = graph.add("Reshape", found, graph.add("Shape", query))
    return layers.linear(found, [f"{name}.encoder_attn.out_proj"], width, [width])[0]


def layer_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Every layer that an adapter may be on, and the shape of its weight."""
    width = sizes.width
    found: dict[str, tuple[int, ...]] = {}
    for side, n_layers, inner in (
        ("encoder", sizes.n_encoder, sizes.encoder_inner),
        ("decoder", sizes.n_decoder, sizes.decoder_inner),
    ):
        kinds = ("self_attn", "encoder_attn") if side == "decoder" else ("self_attn",)
        for place in range(n_layers):
            name = f"model.{side}.layers.{place}"
            found |= {f"{name}.{kind}.{part}_proj": (width, width) for kind in kinds for part in ("q", "k", "v", "out")}
            found |= {f"{name}.fc1": (inner, width), f"{name}.fc2": (width, inner)}
    return found | {"model.encoder.conv1": (width, sizes.n_mels, 3), "model.encoder.conv2": (width, width, 3)}
