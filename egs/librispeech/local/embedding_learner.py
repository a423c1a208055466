"""transformers' Whisper decoder with an embedding to be learned, and a mask over what it listens to."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from encoded_speech import HEADS, LAYERS, MAX_FRAMES, MEL_BINS, WIDTH
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperDecoder
from word_vocabulary import END, START, Vocabulary

from pqm_plugin.errors import PqmError

IGNORED = -100  # as a target: nothing is to be predicted
MAX_TOKENS = 448
Batch = tuple[Tensor, Tensor, Tensor]  # encoder's frames, which of them may be heard, token ids


def whisper_config(vocabulary: Vocabulary) -> WhisperConfig:
    """Whisper tiny.en with another vocabulary."""
    end = vocabulary.special[END]
    return WhisperConfig(
        vocab_size=len(vocabulary),
        num_mel_bins=MEL_BINS,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        d_model=WIDTH,
        encoder_ffn_dim=4 * WIDTH,
        decoder_ffn_dim=4 * WIDTH,
        max_source_positions=MAX_FRAMES,
        max_target_positions=MAX_TOKENS,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=vocabulary.special[START],
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )


class Learner(nn.Module):
    """The decoder; its embedding, both input and output layer, starts at random."""

    def __init__(self, tensors: Mapping[str, Tensor], vocabulary: Vocabulary) -> None:
        """Take over the decoder of `tensors`.

        Raises:
            PqmError: if they lack anything but the embedding, or do not lack it.
        """
        super().__init__()
        self.decoder = WhisperDecoder(whisper_config(vocabulary))
        state = {name.removeprefix("decoder."): value for name, value in tensors.items() if name.startswith("decoder.")}
        differ = self.decoder.load_state_dict(state, strict=False)
        if differ.missing_keys != ["embed_tokens.weight"] or differ.unexpected_keys:
            raise PqmError(
                f"--partial must hold all of the decoder but its token embedding: it lacks {differ.missing_keys}, "
                f"and has {differ.unexpected_keys} besides"
            )
        self.embedding = self.decoder.embed_tokens.weight
        self.embedding.data.normal_(0, 0.02)

    def set_dropout(self, probability: float) -> None:
        """Of the outputs of all layers."""
        self.decoder.dropout = probability
        layers: Any = self.decoder.layers
        for layer in layers:
            layer.dropout = probability

    def loss(self, batch: Batch, word_drop: float, smoothing: float) -> Tensor:
        """Mean cross entropy of the tokens after the prompt, computed in bfloat16.

        Args:
            word_drop: share of the input rows that are set to zero.
            smoothing: of the targets.
        """
        frames, heard, targets = batch
        inputs = self.embedding[targets[:, :-1].clamp(min=0)]
        if word_drop:
            inputs = inputs * (torch.rand(inputs.shape[:2]) > word_drop)[..., None]
        with torch.autocast("cpu", torch.bfloat16):
            hidden = masked_decoder(self.decoder, inputs, frames, heard)
        wanted = targets[:, 1:].clone()
        wanted[:, 0] = IGNORED  # the prompt is given, not predicted
        logits = hidden.float() @ self.embedding.T
        return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), label_smoothing=smoothing)

    @torch.inference_mode()
    def check(self, batch: Batch) -> None:
        """Stop if `masked_decoder` is not transformers' own decoder where nothing is masked."""
        frames, heard, targets = batch
        self.eval()
        theirs = self.decoder(input_ids=targets, encoder_hidden_states=frames, use_cache=False).last_hidden_state
        ours = masked_decoder(self.decoder, self.embedding[targets], frames, heard)
        if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-2):
            raise RuntimeError(f"the decoder differs from transformers' by {(ours - theirs).abs().max():.3g}")


def masked_decoder(decoder: WhisperDecoder, inputs: Tensor, frames: Tensor, heard: Tensor) -> Tensor:
    """What `decoder` computes, with a mask over the encoder's frames, which the class itself does not take.

    Args:
        inputs: embedded tokens, (batch, tokens, width).
        frames: (batch, frames, width).
        heard: false for frames that are hidden, (batch, 1, 1, frames).
    """

    def attend(attention: Any, queries: Tensor, source: Tensor, **how: Any) -> Tensor:
        projected = attention.q_proj(queries), attention.k_proj(source), attention.v_proj(source)
        query, key, value = (tensor.unflatten(-1, (HEADS, -1)).transpose(1, 2) for tensor in projected)
        mixed = F.scaled_dot_product_attention(query, key, value, **how)
        return attention.out_proj(mixed.transpose(1, 2).flatten(2))

    def drop(values: Tensor) -> Tensor:
        return F.dropout(values, decoder.dropout, decoder.training)

    x = inputs + decoder.embed_positions.weight[: inputs.shape[1]]
    layers: Any = decoder.layers
    for layer in layers:
        normed = layer.self_attn_layer_norm(x)
        x = x + drop(attend(layer.self_attn, normed, normed, is_causal=True))
        x = x + drop(attend(layer.encoder_attn, layer.encoder_attn_layer_norm(x), frames, attn_mask=heard))
        x = x + drop(layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(x)))))
    return decoder.layer_norm(x)
