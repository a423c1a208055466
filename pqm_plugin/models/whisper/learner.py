"""A Whisper model while it learns: an encoder that takes any length, and a CTC layer that is thrown away later."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pqm_plugin.models.whisper import library as whisper_library
from pqm_plugin.models.whisper.data import IGNORED, Batch
from pqm_plugin.models.whisper.options import WhisperOptions
from pqm_plugin.models.whisper.tokens import END, NO_TIMESTAMPS, PREVIOUS, START, token_id

_POSITIONS_PER_S = 50


@dataclass(frozen=True)
class Cost:
    """What a batch cost: nats a token of the decoder and of CTC, with gradient, and the decoder's right guesses."""

    decoder: Tensor
    ctc: Tensor
    n_correct: int
    n_tokens: int


class Learner(nn.Module):
    """The model, and a CTC layer on its encoder that makes the decoder find its place in the audio much sooner."""

    def __init__(self, options: WhisperOptions, tokenizer: "whisper_library.WhisperTokenizer") -> None:
        super().__init__()
        self.whisper = whisper_library.WhisperForConditionalGeneration(_config(options, tokenizer))
        self.whisper.generation_config = _generation_config(options, tokenizer)
        self.ctc = nn.Linear(options.model.d_model, len(tokenizer))
        self._dropout = options.model.dropout
        self._blank = token_id(tokenizer, END)

    def encode(self, mel: Tensor) -> Tensor:
        """As `WhisperEncoder.forward`, which insists on whole windows: (B, n_mels, T) to (B, T / 2, d_model)."""
        encoder = self.whisper.model.encoder
        hidden = functional.gelu(encoder.conv2(functional.gelu(encoder.conv1(mel)))).transpose(1, 2)
        hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
        hidden = functional.dropout(hidden, self._dropout, self.training)
        for layer in encoder.layers:
            hidden = layer(hidden, None)
        normalized: Tensor = encoder.layer_norm(hidden)
        return normalized

    def forward(self, batch: Batch, label_smoothing: float = 0.0) -> Cost:
        """What a batch costs."""
        hidden = self.encode(batch.mel)
        decoded = self.whisper(encoder_outputs=(hidden,), decoder_input_ids=batch.decoder_input, use_cache=False)
        scores, labels = decoded.logits.flatten(0, 1), batch.labels.flatten()
        counted = labels != IGNORED
        return Cost(
            functional.cross_entropy(scores, labels, ignore_index=IGNORED, label_smoothing=label_smoothing),
            self._ctc_cost(hidden, batch),
            int((scores.argmax(-1) == labels)[counted].sum()),
            int(counted.sum()),
        )

    def _ctc_cost(self, hidden: Tensor, batch: Batch) -> Tensor:
        scores = self.ctc(hidden).log_softmax(-1).transpose(0, 1)
        total = functional.ctc_loss(
            scores,
            batch.words,
            batch.n_positions,
            batch.n_words,
            blank=self._blank,
            reduction="sum",
            zero_infinity=True,  # an utterance too short for its words teaches nothing here
        )
        return total / batch.n_words.sum().clamp(min=1)


def copy_weights(learner: nn.Module) -> dict[str, Tensor]:
    """The weights by name, each once, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in learner.named_parameters()}


def put_weights(learner: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put weights of `copy_weights` back."""
    with torch.no_grad():
        for name, value in learner.named_parameters():
            value.copy_(weights[name])


def _config(options: WhisperOptions, tokenizer: "whisper_library.WhisperTokenizer") -> "whisper_library.WhisperConfig":
    end = token_id(tokenizer, END)
    return whisper_library.WhisperConfig(
        **vars(options.model),
        vocab_size=len(tokenizer),
        max_source_positions=options.window_s * _POSITIONS_PER_S,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=token_id(tokenizer, START),
        # These default to tokens of OpenAI's vocabulary.
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )


def _generation_config(
    options: WhisperOptions, tokenizer: "whisper_library.WhisperTokenizer"
) -> "whisper_library.GenerationConfig":
    """What `generate` needs of an English-only model that writes no times."""
    end = token_id(tokenizer, END)
    return whisper_library.GenerationConfig(
        decoder_start_token_id=token_id(tokenizer, START),
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        prev_sot_token_id=token_id(tokenizer, PREVIOUS),
        no_timestamps_token_id=token_id(tokenizer, NO_TIMESTAMPS),
        return_timestamps=False,
        is_multilingual=False,
        max_length=options.model.max_target_positions,
    )
