"""The settings file of a Whisper-shaped model's training; `egs/demo/conf/train_whisper.yaml` is one with comments."""

from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

from pqm_plugin.errors import PqmError
from pqm_plugin.settings import fill, read_yaml

_MAY_BE_ZERO = {"weight_decay", "extra_silence_s", "time_masks", "mel_masks", "time_width_s", "mel_width"}
_SHARES = {"dropout", "full_windows", "ctc_weight", "label_smoothing"}


class _Ranges:
    """Numbers that are above 0, or 0 as well, or from 0 to 1."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            name, value = field.name, getattr(self, field.name)
            if is_dataclass(value):
                continue
            if name in _SHARES and not 0 <= value <= 1:
                raise ValueError(f"{name}: {value} must lie between 0 and 1")
            if not (value > 0 or (value == 0 and name in _MAY_BE_ZERO | _SHARES)):
                raise ValueError(f"{name}: {value} must be greater than 0")


@dataclass(frozen=True)
class ModelOptions(_Ranges):
    """Sizes, under the names of transformers' `WhisperConfig`."""

    num_mel_bins: int = 80
    d_model: int = 144
    encoder_layers: int = 4
    encoder_attention_heads: int = 4
    encoder_ffn_dim: int = 432
    decoder_layers: int = 2
    decoder_attention_heads: int = 4
    decoder_ffn_dim: int = 432
    max_target_positions: int = 64
    dropout: float = 0.0
    init_std: float = 0.08


@dataclass(frozen=True)
class TrainOptions(_Ranges):
    """Batches, losses and learning rates."""

    epochs: int = 12
    average: int = 3
    batch_size: int = 8
    full_windows: float = 0.08
    extra_silence_s: float = 0.3
    ctc_weight: float = 0.3
    label_smoothing: float = 0.1
    learning_rate: float = 2e-3
    warmup_steps: int = 300
    weight_decay: float = 0.01
    clip_norm: float = 1.0


@dataclass(frozen=True)
class AugmentOptions(_Ranges):
    """SpecAugment: how many stripes an utterance loses, and their greatest width."""

    time_masks: int = 1
    time_width_s: float = 0.12
    mel_masks: int = 1
    mel_width: int = 10


@dataclass(frozen=True)
class WhisperOptions(_Ranges):
    """Everything in the file."""

    window_s: int = 5
    model: ModelOptions = ModelOptions()
    train: TrainOptions = TrainOptions()
    spec_augment: AugmentOptions = AugmentOptions()


def load_options(config: Path) -> WhisperOptions:
    """Read a settings file over the defaults.

    Raises:
        PqmError: if the file is missing or not YAML, for an unknown name, telling the nearest one, or for a value of
            the wrong kind or range.
    """
    options = fill(WhisperOptions, read_yaml(config, "the settings of a Whisper model"), str(config))
    for side in ("encoder", "decoder"):
        heads = getattr(options.model, f"{side}_attention_heads")
        if options.model.d_model % (2 * heads):
            raise PqmError(f"{config}: model.d_model must be a multiple of twice {side}_attention_heads, {2 * heads}")
    return options
