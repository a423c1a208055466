"""Layers of an ESPnet encoder-decoder by ESPnet's names, and a faster relative self-attention."""

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pqm_plugin.errors import PqmError
from pqm_plugin.forwards import hides_forward, is_replaced, replace_forward
from pqm_plugin.models.espnet import library as espnet_library

_TYPE = "RelPositionMultiHeadedAttention"
_NAMES = ("linear_q", "linear_k", "linear_v", "linear_out", "linear_pos", "q_norm", "k_norm", "dropout")
_NUMBERS = ("pos_bias_u", "pos_bias_v", "h", "d_k")
# Rows, frames, and frames that are none: of a trial.
_TRIAL = (2, 7, 3)
_TOLERANCE = 1e-4

_REPLACED: ContextVar[frozenset[nn.Module]] = ContextVar("replaced attentions", default=frozenset())


def relative_attentions(network: nn.Module) -> list[Any]:
    """Attentions of `network` that `attend` computes as they do; the log says of others why not."""
    found = [module for module in network.modules() if type(module).__name__ == _TYPE]
    reason = next(filter(None, map(_misfit, found)), "")
    if reason:
        logging.warning("ESPnet's own attention over relative positions: %s", reason)
    return [] if reason else found


@contextmanager
def fast_attention(attentions: list[Any]) -> Iterator[None]:
    """Within it, and in its thread alone, `attentions` compute by `attend`, which keeps no weights for ESPnet's plots.

    Their forward asks every time whether it is within: other threads may train, or recognise, with the same modules.
    """
    for attention in attentions:
        if not hides_forward(attention):
            replace_forward(attention, partial(_forward, attention))
    outside = _REPLACED.set(frozenset(attentions))
    try:
        yield
    finally:
        _REPLACED.reset(outside)


def _forward(attention: Any, *arguments: Any, **named: Any) -> Tensor:
    replaced = attention in _REPLACED.get() and not attention.dropout.training
    found: Tensor = (attend if replaced else type(attention).forward)(attention, *arguments, **named)
    return found


def attend(attention: Any, query: Tensor, key: Tensor, value: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
    """What the attention's own forward gives without dropout, float32 (B, T, D).

    The score of a position is read where it was computed, ESPnet's shift being a view with rows one number shorter;
    it is the bias of torch's fused attention. The layers within keep their own forward, whatever adapter they have.

    Args:
        query: (B, T, D), as are `key` and `value`.
        positions: (1 or B, 2T - 1, D), from T - 1 frames ahead to T - 1 frames behind.
        mask: bool (B, 1, T) or (B, T, T): frames that are attended to; None for all.

    Source: Dai et al. 2019 (Transformer-XL), section 3.3 and appendix B.
    """
    q = attention.q_norm(_by_head(attention, attention.linear_q(query)))
    k = attention.k_norm(_by_head(attention, attention.linear_k(key))).transpose(1, 2)
    v = _by_head(attention, attention.linear_v(value)).transpose(1, 2)
    p = _by_head(attention, attention.linear_pos(positions)).transpose(1, 2)
    scale = 1 / math.sqrt(attention.d_k)
    by_distance = _shifted((q + attention.pos_bias_v) * scale, p)
    queries = (q + attention.pos_bias_u).transpose(1, 2)
    on_cpu = query.device.type == "cpu"
    # Where nothing is masked a pass over the scores is saved. A GPU would have to be waited for.
    unheard = None if mask is None or (on_cpu and bool(mask.all())) else mask[:, None].eq(0)
    weigh = _weighted if on_cpu and by_distance.requires_grad else _fused
    found = weigh(queries, k, v, by_distance, unheard, scale)
    joined: Tensor = attention.linear_out(found.transpose(1, 2).reshape(query.shape))
    return joined


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, unheard: Tensor | None, scale: float) -> Tensor:
    """Sum of `v` by the scores of `q` and `k`, which are not kept, and of `bias`, all (B, heads, T, …)."""
    if unheard is not None:
        bias.masked_fill_(unheard, torch.finfo(bias.dtype).min)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


def _weighted(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, unheard: Tensor | None, scale: float) -> Tensor:
    """The same where gradients pass through `bias`, which on a CPU the fused one has none for, and torch is slower."""
    scores = (q * scale).contiguous() @ k.contiguous().mT + bias
    if unheard is not None:
        scores = scores.masked_fill(unheard, torch.finfo(scores.dtype).min)
    return scores.softmax(-1) @ v.contiguous()


def _by_head(attention: Any, x: Tensor) -> Tensor:
    """`x` (B, n, D) as (B, n, heads, d)."""
    return x.view(len(x), -1, attention.h, attention.d_k)


def _shifted(q: Tensor, p: Tensor) -> Tensor:
    """Score of every frame for every query by their distance, (B, heads, T, T).

    Of queries `q` (B, T, heads, d) and distances `p` (1 or B, heads, 2T - 1, d).
    """
    (n_rows, n_frames, n_heads, _), n_places = q.shape, p.shape[2]
    # Rows that share their positions are one product.
    together = q.reshape(len(p), -1, *q.shape[2:]).transpose(1, 2).contiguous() @ p.contiguous().mT
    scores = together.view(len(p), n_heads, -1, n_frames, n_places).transpose(1, 2).flatten(0, 1)
    # The next query's scores begin one distance earlier.
    strides = (*scores.stride()[:2], n_places - 1, 1)
    view = scores.as_strided((n_rows, n_heads, n_frames, n_frames), strides, n_frames - 1)
    # A GPU's kernels ask for aligned rows.
    return view if view.device.type == "cpu" else view.contiguous()


@torch.no_grad()
def _misfit(attention: Any) -> str:
    """Why `attend` is not for this attention; empty if it is, as a trial in noise shows."""
    for name in (*_NAMES, *_NUMBERS):
        if not hasattr(attention, name):
            return f"this version of ESPnet has no {_TYPE}.{name}"
    if getattr(attention, "zero_triu", False):
        return "it is causal (zero_triu)"
    n_rows, n_frames, n_unheard = _TRIAL
    bias = attention.pos_bias_u
    noise = torch.Generator().manual_seed(0)
    size = bias.numel()
    x = torch.randn(n_rows, n_frames, size, generator=noise).to(bias.device, bias.dtype)
    positions = torch.randn(1, 2 * n_frames - 1, size, generator=noise).to(bias.device, bias.dtype)
    mask = torch.ones(n_rows, 1, n_frames, dtype=torch.bool, device=bias.device)
    mask[-1, :, -n_unheard:] = False
    modes = [(module, module.training) for module in attention.modules()]
    try:
        attention.eval()
        theirs = attention(x, x, x, positions, mask)
        ours = attend(attention, x, x, x, positions, mask)
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        return f"a trial failed with {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    finally:
        for module, training in modes:
            module.training = training
    gap = float((theirs - ours).abs().max() / theirs.abs().max().clamp(min=1e-30))
    return "" if gap < _TOLERANCE else f"a trial differs by {gap:.2g} of the largest output"


_KINDS = (
    (r"encoder\.embed\.conv\..*", "subsampling_conv"),
    (r"encoder\.embed\..*", "subsampling_linear"),
    (r"encoder\.encoders\.\d+\.(self_attn|attn)\..*", "encoder_attention"),
    (r"encoder\.encoders\.\d+\.feed_forward(_macaron)?\..*", "encoder_feed_forward"),
    (r"encoder\.encoders\.\d+\.(.*depthwise_conv.*|cgmlp\.csgu\.conv)", "depthwise_conv"),
    (r"encoder\.encoders\.\d+\.cgmlp\..*", "encoder_feed_forward"),
    (r"encoder\.encoders\.\d+\..*pointwise_conv.*", "pointwise_conv"),
    (r"encoder\..*", "encoder_other"),
    (r"decoder\.embed\..*", "embedding"),
    (r"decoder\.output_layer", "output"),
    (r"decoder\.decoders\.\d+\.self_attn\..*", "decoder_attention"),
    (r"decoder\.decoders\.\d+\.src_attn\..*", "cross_attention"),
    (r"decoder\.decoders\.\d+\.feed_forward\..*", "decoder_feed_forward"),
    (r"decoder\..*", "decoder_other"),
    (r"ctc\..*", "ctc"),
)
_QUANTIZABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding)
# `attn` is that of the Branchformers.
_ATTENTION = r".*\.(self_attn|src_attn|attn)\.linear_"
_PRESETS = {
    "qv": _ATTENTION + "[qv]",
    "attention": _ATTENTION + "(q|k|v|out)",
    "all_linear": r"(encoder|decoder)\..*",
}
_DECODER_INPUT = ("decoder.embed", "decoder.output_layer")
TOOLKIT_LORA = "espnet-lora"


def layer_kinds(network: nn.Module) -> Mapping[str, str]:
    """Kind of every layer with a matrix, by its name in `network`."""
    return {
        name: kind
        for name, module in network.named_modules()
        if isinstance(module, _QUANTIZABLE)
        for kind in [next((kind for pattern, kind in _KINDS if re.fullmatch(pattern, name)), None)]
        if kind is not None
    }


def adapter_targets(network: nn.Module, preset: str) -> list[str]:
    """Full names of the linear layers of a LoRA preset.

    Raises:
        PqmError: if there is no such preset.
    """
    if preset not in _PRESETS:
        raise PqmError(f"LoRA targets {preset!r}: use one of {', '.join(_PRESETS)}, or a list of layer names")
    pattern = re.compile(_PRESETS[preset])
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and pattern.fullmatch(name) and not name.startswith(_DECODER_INPUT)
    ]


def give_each_row_its_positions(network: nn.Module) -> None:
    """Let the projection of positions see one row an utterance wherever it has an adapter.

    ESPnet projects the positions of a batch once, for all its rows; an adapter that differs by row needs them all.
    """
    for module in network.modules():
        if hasattr(module, "linear_pos"):
            module.register_forward_pre_hook(_expand_positions)


def _expand_positions(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    query, _, _, positions, *_ = inputs
    layer = module.linear_pos
    # peft puts a module of its own around the layer, a bank of adapters gives it a forward of its own.
    plain = isinstance(layer, nn.Linear) and not is_replaced(layer)
    if module.training or len(positions) == len(query) or plain:
        return None
    return (*inputs[:3], positions.expand(len(query), -1, -1), *inputs[4:])


def attach_lora(network: nn.Module, targets: Sequence[str], rank: int, alpha: float, dropout: float) -> int:
    """Let ESPnet put its LoRA around the named linear layers, in place, and freeze all else; counts what ESPnet trains.

    ESPnet's `create_lora_adapter` freezes nothing: it gives loralib's layers, whose weights would be frozen, the base's
    own parameters, which are trained. Its recipes have `freeze_param` for that.

    Args:
        targets: full layer names. ESPnet takes the ends of names, so that a short one would hit other layers too.
        alpha: a whole number, as ESPnet takes no other.

    Returns:
        Trained parameters of what ESPnet has made, before anything is frozen.

    Raises:
        PqmError: if loralib is not installed, alpha is not a whole number, or ESPnet has no LoRA for such layers.

    Source: Hu et al. 2021 (LoRA), section 4.1; loralib's `mark_only_lora_as_trainable`.
    """
    try:
        import loralib
    except ImportError as error:
        raise PqmError("ESPnet's LoRA needs loralib: pip install 'pqm_plugin[study]'") from error
    if alpha != int(alpha):
        raise PqmError(f"lora.alpha {alpha}: ESPnet's LoRA takes only whole numbers")
    settings = {"rank": rank, "alpha": int(alpha), "dropout_rate": dropout, "target_modules": list(targets)}
    try:
        espnet_library.create_adapter(network, "lora", settings)
    except ValueError as error:
        raise PqmError(f"lora.targets: {' '.join(str(error).split())}") from error
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, loralib.LoRALayer)}
    if layers.keys() != set(targets):
        raise PqmError(f"lora.targets: ESPnet's LoRA is on {len(layers)} layers, {len(set(targets))} were asked for")
    for layer in layers.values():
        # In evaluation loralib adds the product to the weight and takes it away again, which rounds the base and
        # hides the factors from a training that leaves the rest of the model in evaluation.
        layer.train()
        layer.merge_weights = False
        layer.eval()
    trained_by_default = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    loralib.mark_only_lora_as_trainable(network)
    return trained_by_default
