"""A Conformer AED of ESPnet as two graphs: the encoder with all that a search looks at, and a step of the decoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from pqm_plugin.runtime.graph import INT64, OWN, Graph
from pqm_plugin.runtime.layers import Layers, Shapes
from pqm_plugin.runtime.weights import NotHereError, PackedModel

_EPSILON = 1e-12
# Kernel and stride of every convolution of a subsampling, by the name of the input layer.
_SUBSAMPLINGS: Mapping[str, tuple[tuple[int, int], ...]] = {
    "conv2d": ((3, 2), (3, 2)),
    "conv2d1": ((3, 1), (3, 1)),
    "conv2d2": ((3, 2), (3, 1)),
    "conv2d6": ((3, 2), (5, 3)),
    "conv2d8": ((3, 2), (3, 2), (3, 2)),
}
_LEAST_FRAMES = {"conv2d": 7, "conv2d1": 5, "conv2d2": 7, "conv2d6": 11, "conv2d8": 15}
_ACTIVATIONS = ("swish", "relu")
# Settings that change what is computed, with ESPnet's defaults and then what the graphs have.
_ENCODER: Mapping[str, tuple[Any, tuple[Any, ...]]] = {
    "input_layer": ("conv2d", tuple(_SUBSAMPLINGS)),
    "normalize_before": (True, (True,)),
    "concat_after": (False, (False,)),
    "positionwise_layer_type": ("linear", ("linear",)),
    "macaron_style": (False, (False, True)),
    "rel_pos_type": ("legacy", ("latest",)),
    "pos_enc_layer_type": ("rel_pos", ("rel_pos",)),
    "selfattention_layer_type": ("rel_selfattn", ("rel_selfattn",)),
    "activation_type": ("swish", _ACTIVATIONS),
    "use_cnn_module": (True, (False, True)),
    "zero_triu": (False, (False,)),
    "interctc_use_conditioning": (False, (False,)),
    "ctc_trim": (False, (False,)),
}
_DECODER: Mapping[str, tuple[Any, tuple[Any, ...]]] = {
    "input_layer": ("embed", ("embed",)),
    "use_output_layer": (True, (True,)),
    "normalize_before": (True, (True,)),
    "concat_after": (False, (False,)),
    "qk_norm": (False, (False,)),
}
# Of training, or of how the same is computed.
_UNSEEN = (
    *("dropout_rate", "positional_dropout_rate", "attention_dropout_rate", "self_attention_dropout_rate"),
    *("src_attention_dropout_rate", "stochastic_depth_rate", "layer_drop_rate", "gradient_checkpoint_layers"),
    *("use_flash_attn", "use_sdpa", "max_pos_emb_len", "interctc_layer_idx", "padding_idx", "qk_norm"),
    "positionwise_conv_kernel_size",
)
_SIZES = {"output_size": 256, "attention_heads": 4, "linear_units": 2048, "num_blocks": 6, "cnn_module_kernel": 31}


@dataclass(frozen=True)
class Sizes:
    """Of a Conformer AED: `width` of its layers, `*_inner` of their feed-forward parts."""

    n_mels: int
    n_tokens: int
    width: int
    n_encoder: int
    n_decoder: int
    encoder_heads: int
    decoder_heads: int
    encoder_inner: int
    decoder_inner: int
    kernel: int
    subsampling: str
    activation: str
    is_macaron: bool
    convolves: bool

    @classmethod
    def of(cls, config: Mapping[str, Any], n_mels: int, n_tokens: int) -> Self:
        """By a configuration of ESPnet's.

        Raises:
            NotHereError: if the graphs here are not of such a model.
        """
        for part, only in (("encoder", "conformer"), ("decoder", "transformer")):
            if config.get(part) != only:
                raise NotHereError(f"{part} {str(config.get(part))[:40]}")
        encoder, decoder = (config.get(f"{part}_conf") or {} for part in ("encoder", "decoder"))
        kinds = _checked(encoder, "encoder_conf", _ENCODER)
        _checked(decoder, "decoder_conf", _DECODER)
        own, theirs = (
            {name: _whole(conf.get(name, usual), f"{part}.{name}") for name, usual in _SIZES.items()}
            for part, conf in (("encoder_conf", encoder), ("decoder_conf", decoder))
        )
        for heads in (own["attention_heads"], theirs["attention_heads"]):
            if own["output_size"] % heads or own["output_size"] % 2:
                raise NotHereError(f"{heads} heads for a width of {own['output_size']}")
        if own["cnn_module_kernel"] % 2 == 0:
            raise NotHereError(f"cnn_module_kernel {own['cnn_module_kernel']}")
        return cls(
            n_mels=n_mels,
            n_tokens=n_tokens,
            width=own["output_size"],
            n_encoder=own["num_blocks"],
            n_decoder=theirs["num_blocks"],
            encoder_heads=own["attention_heads"],
            decoder_heads=theirs["attention_heads"],
            encoder_inner=own["linear_units"],
            decoder_inner=theirs["linear_units"],
            kernel=own["cnn_module_kernel"],
            subsampling=kinds["input_layer"],
            activation=kinds["activation_type"],
            is_macaron=kinds["macaron_style"],
            convolves=kinds["use_cnn_module"],
        )

    @property
    def convolutions(self) -> tuple[tuple[int, int], ...]:
        """Kernel and stride of the subsampling's convolutions."""
        return _SUBSAMPLINGS[self.subsampling]

    @property
    def least_frames(self) -> int:
        """Frames of features that ESPnet's subsampling asks for."""
        return _LEAST_FRAMES[self.subsampling]

    def subsampled(self, size: int) -> int:
        """What the subsampling leaves of so many frames, or of so many features."""
        for kernel, stride in self.convolutions:
            size = (size - kernel) // stride + 1
        return size


def _checked(found: Mapping[str, Any], part: str, known: Mapping[str, tuple[Any, tuple[Any, ...]]]) -> dict[str, Any]:
    """The kinds of layers that a configuration asks for."""
    for name in found:
        if name not in known and name not in _UNSEEN and name not in _SIZES:
            raise NotHereError(f"{part} with {str(name)[:40]}")
    kinds = {name: found.get(name, usual) for name, (usual, _) in known.items()}
    for name, value in kinds.items():
        if not any(value is one or (isinstance(one, str) and value == one) for one in known[name][1]):
            raise NotHereError(f"{part} with {name} {str(value)[:40]}")
    return kinds


def _whole(value: Any, name: str) -> int:
    if type(value) is not int or value < 1:
        raise NotHereError(f"{name} {str(value)[:40]}")
    return value


def encoder(model: PackedModel, sizes: Sizes, adapted: Shapes, *, decodes: bool = True) -> bytes:
    """One piece: from `features` float32 (1, T, D) to `ctc`, `key_<i>` and `value_<i>`.

    Inputs: `positions` float32 (1, 2 N, width) of N frames, see `relative_positions`; `first`, `last` int64 (1,) and
    `shifted` int64 (4,): what `shift_of` says.

    Outputs: `ctc` float32 (1, N, V), log probabilities; with `decodes` of each decoder layer `key_<i>` (1, heads,
    width, N) and `value_<i>` (1, heads, N, width).
    """
    graph = Graph()
    layers = Layers(graph, model, adapted, whole=True, packed=True)
    x = _subsampled(layers, graph.input("features", [1, "frames", sizes.n_mels]), sizes)
    graph.input("positions", [1, "twice", sizes.width])
    for name in ("first", "last"):
        graph.input(name, [1], INT64)
    graph.input("shifted", [4], INT64)
    for place in range(sizes.n_encoder):
        x = _block(layers, x, f"encoder.encoders.{place}", sizes)
    x = layers.norm(x, "encoder.after_norm", sizes.width, _EPSILON)
    [logits] = layers.linear(x, ["ctc.ctc_lo"], sizes.width, [sizes.n_tokens])
    graph.output(graph.add("LogSoftmax", logits, axis=-1), "ctc", [1, "n", sizes.n_tokens])
    heads, each = sizes.decoder_heads, sizes.width // sizes.decoder_heads
    for place in range(sizes.n_decoder if decodes else 0):
        names = [f"decoder.decoders.{place}.src_attn.linear_{kind}" for kind in "kv"]
        key, value = layers.linear(x, names, sizes.width, [sizes.width] * 2)
        graph.output(layers.heads(key, heads, each, (0, 2, 3, 1)), f"key_{place}", [1, heads, each, "n"])
        graph.output(layers.heads(value, heads, each), f"value_{place}", [1, heads, "n", each])
    return graph.serialized()


def _subsampled(layers: Layers, x: str, sizes: Sizes) -> str:
    graph, width = layers.graph, sizes.width
    x = graph.add("Unsqueeze", x, graph.ints(1))
    n_in = 1
    for place, (kernel, stride) in enumerate(sizes.convolutions):
        name = f"encoder.embed.conv.{2 * place}"
        x = graph.add("Relu", layers.convolution_2d(x, name, (width, n_in, kernel, kernel), stride))
        n_in = width
    n_out = width * sizes.subsampled(sizes.n_mels)
    x = graph.add("Reshape", graph.add("Transpose", x, perm=[0, 2, 1, 3]), graph.ints(1, -1, n_out))
    [x] = layers.linear(x, ["encoder.embed.out"], n_out, [width])
    return graph.add("Mul", x, graph.constant(np.float32(width**0.5)))


def _block(layers: Layers, x: str, name: str, sizes: Sizes) -> str:
    graph, width = layers.graph, sizes.width
    half = graph.constant(np.float32(0.5))

    def fed(x: str, kind: str, norm: str) -> str:
        inner = layers.norm(x, f"{name}.{norm}", width, _EPSILON)
        [inner] = layers.linear(inner, [f"{name}.{kind}.w_1"], width, [sizes.encoder_inner])
        inner = _activated(graph, inner, sizes.activation)
        [inner] = layers.linear(inner, [f"{name}.{kind}.w_2"], sizes.encoder_inner, [width])
        return graph.add("Add", x, graph.add("Mul", inner, half) if sizes.is_macaron else inner)

    if sizes.is_macaron:
        x = fed(x, "feed_forward_macaron", "norm_ff_macaron")
    x = graph.add("Add", x, _relative_attention(layers, x, name, sizes))
    if sizes.convolves:
        x = graph.add("Add", x, _convolved(layers, x, name, sizes))
    x = fed(x, "feed_forward", "norm_ff")
    return layers.norm(x, f"{name}.norm_final", width, _EPSILON) if sizes.convolves else x


def _activated(graph: Graph, x: str, kind: str) -> str:
    return graph.add("Relu", x) if kind == "relu" else graph.add("QuickGelu", x, domain=OWN, alpha=1.0)


def _relative_attention(layers: Layers, x: str, name: str, sizes: Sizes) -> str:
    """The score of a position is read where it was computed, as a view with rows one number shorter."""
    graph, width, heads = layers.graph, sizes.width, sizes.encoder_heads
    each = width // heads
    x = layers.norm(x, f"{name}.norm_mha", width, _EPSILON)
    own = f"{name}.self_attn"
    query, key, value = layers.linear(x, [f"{own}.linear_{kind}" for kind in "qkv"], width, [width] * 3)
    [places] = layers.linear("positions", [f"{own}.linear_pos"], width, [width], unbiased=[f"{own}.linear_pos"])
    scale = np.float32(each**-0.5)
    query = graph.add("Mul", layers.heads(query, heads, each), graph.constant(scale))
    by_content, by_place = (
        graph.add("Add", query, graph.constant((layers.model.array(f"{own}.{bias}", (heads, each)) * scale)[:, None]))
        for bias in ("pos_bias_u", "pos_bias_v")
    )
    scores = graph.add("MatMul", by_place, layers.heads(places, heads, each, (0, 2, 3, 1)))
    scores = graph.add("Reshape", scores, graph.ints(1, heads, -1))
    scores = graph.add("Reshape", graph.add("Slice", scores, "first", "last", graph.ints(2)), "shifted")
    n_frames = graph.add("Slice", "shifted", graph.ints(2), graph.ints(3))
    scores = graph.add("Slice", scores, graph.ints(0), n_frames, graph.ints(3))
    by_content = graph.add("MatMul", by_content, layers.heads(key, heads, each, (0, 2, 3, 1)))
    weights = graph.add("Softmax", graph.add("Add", by_content, scores), axis=-1)
    found = graph.add("MatMul", weights, layers.heads(value, heads, each))
    found = graph.add("Reshape", graph.add("Transpose", found, perm=[0, 2, 1, 3]), graph.ints(0, 0, width))
    return layers.linear(found, [f"{own}.linear_out"], width, [width])[0]


def _convolved(layers: Layers, x: str, name: str, sizes: Sizes) -> str:
    """Batch normalisation is part of the convolution before it."""
    graph, model, width = layers.graph, layers.model, sizes.width
    own = f"{name}.conv_module"
    x = layers.norm(x, f"{name}.norm_conv", width, _EPSILON)
    [x] = layers.linear(x, [f"{own}.pointwise_conv1"], width, [2 * width], tail=(1,))
    x, gate = graph.add_many("Split", [x, graph.ints(width, width)], 2, axis=-1)
    x = graph.add("Unsqueeze", graph.add("Mul", x, graph.add("Sigmoid", gate)), graph.ints(1))
    x = graph.add("Transpose", x, perm=[0, 3, 1, 2])
    gain, shift, mean, variance = (
        model.array(f"{own}.norm.{part}", (width,)) for part in ("weight", "bias", "running_mean", "running_var")
    )
    model.array(f"{own}.norm.num_batches_tracked", ())
    gain = gain / np.sqrt(variance + np.float32(1e-5))
    weight = model.floats(f"{own}.depthwise_conv", (width, 1, sizes.kernel)) * gain[:, None, None]
    bias = (model.array(f"{own}.depthwise_conv.bias", (width,)) - mean) * gain + shift
    # In two dimensions, of height 1: for these ONNX Runtime has the faster code.
    weight, around = weight[:, :, None], [0, sizes.kernel // 2] * 2
    x = graph.add("Conv", x, graph.constant(weight), graph.constant(bias), pads=around, group=width)
    x = graph.add("Transpose", _activated(graph, x, sizes.activation), perm=[0, 2, 3, 1])
    x = graph.add("Squeeze", x, graph.ints(1))
    return layers.linear(x, [f"{own}.pointwise_conv2"], width, [width], tail=(1,))[0]


def relative_positions(n_frames: int, width: int) -> np.ndarray:
    """Sinusoids of distances from N - 1 frames behind to N frames ahead, float32 (1, 2 N, width)."""
    distances = np.arange(n_frames - 1, -n_frames - 1, -1, dtype=np.float32)
    return absolute_positions(distances, width)[None]


def absolute_positions(places: np.ndarray, width: int) -> np.ndarray:
    """Sinusoids of places, float32 (n,), float32 (n, width)."""
    rates = np.exp(np.arange(0, width, 2, dtype=np.float32) * np.float32(-np.log(10000.0) / width))
    angles = places[:, None] * rates
    return np.stack([np.sin(angles), np.cos(angles)], -1).reshape(len(places), width)


def shift_of(n_frames: int, n_heads: int) -> dict[str, np.ndarray]:
    """The view in which scores by distance (heads, N, 2 N) are scores by place: from where to where, and as what."""
    first = n_frames - 1
    ends = (first, first + n_frames * (2 * n_frames - 1))
    shape = (1, n_heads, n_frames, 2 * n_frames - 1)
    return {
        "first": np.array(ends[:1], np.int64),
        "last": np.array(ends[1:], np.int64),
        "shifted": np.array(shape, np.int64),
    }


def decoder(model: PackedModel, sizes: Sizes, adapted: Shapes) -> bytes:
    """A step of R hypotheses of B pieces, R a multiple of B, after L earlier ones.

    Inputs: `x` float32 (R, width), embeddings with positions; `order` int64 (R,), the rows of the earlier keys and
    values that each hypothesis goes on from; `pieces` int64 (1,), B; `heard` float32 (B, 1, 1, N), added to scores;
    earlier `past_key_<i>`, `past_value_<i>` (R', heads, L, width); `key_<i>`, `value_<i>` of the encoder.

    Outputs: `scores` float32 (R, V), log probabilities of the next token; `new_key_<i>` and `new_value_<i>` (R, heads,
    L + 1, width).
    """
    graph = Graph()
    layers = Layers(graph, model, adapted, whole=True)
    width = sizes.width
    x = graph.input("x", ["rows", width])
    graph.input("order", ["rows"], INT64)
    graph.input("pieces", [1], INT64)
    graph.input("heard", ["pieces", 1, 1, "frames"])
    for place in range(sizes.n_decoder):
        name = f"decoder.decoders.{place}"
        x = graph.add("Add", x, _cached_attention(layers, x, name, place, sizes))
        x = graph.add("Add", x, _cross_attention(layers, x, name, place, sizes))
        inner = layers.norm(x, f"{name}.norm3", width, _EPSILON)
        [inner] = layers.linear(inner, [f"{name}.feed_forward.w_1"], width, [sizes.decoder_inner])
        inner = graph.add("Relu", inner)
        [inner] = layers.linear(inner, [f"{name}.feed_forward.w_2"], sizes.decoder_inner, [width])
        x = graph.add("Add", x, inner)
    x = layers.norm(x, "decoder.after_norm", width, _EPSILON)
    [logits] = layers.linear(x, ["decoder.output_layer"], width, [sizes.n_tokens])
    graph.output(graph.add("LogSoftmax", logits, axis=-1), "scores", ["rows", sizes.n_tokens])
    return graph.serialized()


def _cached_attention(layers: Layers, x: str, name: str, place: int, sizes: Sizes) -> str:
    graph, width, heads = layers.graph, sizes.width, sizes.decoder_heads
    each = width // heads
    x = layers.norm(x, f"{name}.norm1", width, _EPSILON)
    names = [f"{name}.self_attn.linear_{kind}" for kind in "qkv"]
    query, *fresh = layers.linear(x, names, width, [width] * 3)
    kept = []
    for kind, new in zip(("key", "value"), fresh, strict=True):
        past = graph.input(f"past_{kind}_{place}", ["earlier", heads, "past", each])
        # One token's heads lie as (heads, 1, width) already.
        new = graph.add("Reshape", new, graph.ints(0, heads, 1, each))
        kept.append(graph.add("Concat", graph.add("Gather", past, "order", axis=0), new, axis=2))
        graph.output(kept[-1], f"new_{kind}_{place}", ["rows", heads, "all", each])
    query = graph.add("Mul", graph.add("Reshape", query, graph.ints(0, heads, 1, each)), _scale(graph, each))
    scores = graph.add("MatMul", query, graph.add("Transpose", kept[0], perm=[0, 1, 3, 2]))
    found = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), kept[1])
    found = graph.add("Reshape", found, graph.ints(-1, width))
    return layers.linear(found, [f"{name}.self_attn.linear_out"], width, [width])[0]


def _scale(graph: Graph, each: int) -> str:
    return graph.constant(np.float32(each**-0.5))


def _cross_attention(layers: Layers, x: str, name: str, place: int, sizes: Sizes) -> str:
    """All hypotheses of a piece look at its keys and values together."""
    graph, width, heads = layers.graph, sizes.width, sizes.decoder_heads
    each = width // heads
    key = graph.input(f"key_{place}", ["pieces", heads, each, "frames"])
    value = graph.input(f"value_{place}", ["pieces", heads, "frames", each])
    x = layers.norm(x, f"{name}.norm2", width, _EPSILON)
    [query] = layers.linear(x, [f"{name}.src_attn.linear_q"], width, [width])
    query = graph.add("Mul", query, _scale(graph, each))
    together = graph.add("Concat", "pieces", graph.ints(-1, heads, each), axis=0)
    by_piece = graph.add("Transpose", graph.add("Reshape", query, together), perm=[0, 2, 1, 3])
    scores = graph.add("Add", graph.add("MatMul", by_piece, key), "heard")
    found = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), value)
    found = graph.add("Reshape", graph.add("Transpose", found, perm=[0, 2, 1, 3]), graph.ints(-1, width))
    return layers.linear(found, [f"{name}.src_attn.linear_out"], width, [width])[0]


def layer_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Every layer that an adapter may be on, and the shape of its weight."""
    width = sizes.width
    square = (width, width)
    found: dict[str, tuple[int, ...]] = {
        "encoder.embed.out": (width, width * sizes.subsampled(sizes.n_mels)),
        "ctc.ctc_lo": (sizes.n_tokens, width),
        "decoder.output_layer": (sizes.n_tokens, width),
    }
    for place in range(sizes.n_encoder):
        name = f"encoder.encoders.{place}"
        found |= {f"{name}.self_attn.linear_{kind}": square for kind in ("q", "k", "v", "out", "pos")}
        for kind in ("feed_forward", *(("feed_forward_macaron",) if sizes.is_macaron else ())):
            found |= {f"{name}.{kind}.w_1": (sizes.encoder_inner, width)}
            found |= {f"{name}.{kind}.w_2": (width, sizes.encoder_inner)}
        if sizes.convolves:
            found |= {f"{name}.conv_module.pointwise_conv1": (2 * width, width, 1)}
            found |= {f"{name}.conv_module.pointwise_conv2": (width, width, 1)}
    for place in range(sizes.n_decoder):
        name = f"decoder.decoders.{place}"
        for attention in ("self_attn", "src_attn"):
            found |= {f"{name}.{attention}.linear_{kind}": square for kind in ("q", "k", "v", "out")}
        found |= {f"{name}.feed_forward.w_1": (sizes.decoder_inner, width)}
        found |= {f"{name}.feed_forward.w_2": (width, sizes.decoder_inner)}
    return found


def is_encoder_side(layer: str) -> bool:
    """Whether a layer is computed once for a piece: the encoder's, and keys and values that the decoder looks at."""
    return layer.startswith(("encoder.", "ctc.")) or layer.endswith((".src_attn.linear_k", ".src_attn.linear_v"))
