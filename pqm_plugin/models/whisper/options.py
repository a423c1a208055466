"""The settings file of a Whisper-shaped model's training; `egs/demo/conf/train_whisper.yaml` is one with comments."""

import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pqm_plugin.errors import PqmError
from pqm_plugin.models.training_folder import read_settings


@dataclass(frozen=True)
class ModelOptions:
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
class TrainOptions:
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
class AugmentOptions:
    """SpecAugment: how many stripes an utterance loses, and their greatest width."""

    time_masks: int = 1
    time_width_s: float = 0.12
    mel_masks: int = 1
    mel_width: int = 10


@dataclass(frozen=True)
class WhisperOptions:
    """Everything in the file."""

    window_s: int = 5
    model: ModelOptions = ModelOptions()
    train: TrainOptions = TrainOptions()
    spec_augment: AugmentOptions = AugmentOptions()


_MAY_BE_ZERO = {"weight_decay", "extra_silence_s", "time_masks", "mel_masks", "time_width_s", "mel_width"}
_SHARES = {"dropout", "full_windows", "ctc_weight", "label_smoothing"}


def load_options(config: Path) -> WhisperOptions:
    """Read a settings file over the defaults.

    Raises:
        PqmError: if the file is missing or not YAML, for an unknown name, telling the nearest one, or for a value of
            the wrong kind or range.
    """
    options: WhisperOptions = _fill(WhisperOptions, read_settings(config, "the settings of a Whisper model"), config)
    for side in ("encoder", "decoder"):
        heads = getattr(options.model, f"{side}_attention_heads")
        if options.model.d_model % (2 * heads):
            raise PqmError(f"{config}: model.d_model must be a multiple of twice {side}_attention_heads, {2 * heads}")
    return options


def _fill(cls: type[Any], values: Any, where: Path | str) -> Any:
    """An instance of the dataclass `cls` from a mapping."""
    if not isinstance(values, dict):
        raise PqmError(f"{where}: expected names and values, got {values!r}")
    fields = {field.name: field.default for field in dataclasses.fields(cls)}
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1, cutoff=0.0)
            raise PqmError(f"{where}: unknown name {name!r}; did you mean {near[0]!r}? Known: {', '.join(fields)}")
    return cls(**{name: _value(name, fields[name], value, f"{where}: {name}") for name, value in values.items()})


def _value(name: str, default: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(default):
        return _fill(type(default), value, where)
    if isinstance(default, float) and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            # YAML reads 1e-3 as text: it wants a dot before the exponent.
            value = float(value)
        except ValueError:
            raise PqmError(f"{where}: {value!r} is no number") from None
    if not isinstance(value, type(default)) or isinstance(value, bool):
        raise PqmError(f"{where}: {value!r} is no {'whole number' if isinstance(default, int) else 'number'}")
    if name in _SHARES and not 0 <= value <= 1:
        raise PqmError(f"{where}: {value} must lie between 0 and 1")
    if not (value > 0 or (value == 0 and name in _MAY_BE_ZERO | _SHARES)):
        raise PqmError(f"{where}: {value} must be greater than 0")
    return value
