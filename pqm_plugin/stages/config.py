"""What a recipe's YAML may say: frozen defaults here, the file holds what differs."""

import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pqm_plugin.adapters.options import LATER, LoraOptions, TrainOptions
from pqm_plugin.corpus.text import AUTO, CASES
from pqm_plugin.errors import PqmError
from pqm_plugin.metrics.style import STYLES
from pqm_plugin.models.options import SearchOptions


@dataclasses.dataclass(frozen=True)
class QuantizeConfig:
    """Stage 3. `keep` names the layer kinds that stay in `rest_dtype`, see the sensitivity table of a recipe.

    `calibrate` is how many SAT utterances weights are rounded by, so that what layers compute on them changes least; it
    costs no byte. With 0 each weight goes to its nearest level.
    """

    quant_type: str = "nf4"
    block_size: int = 64
    double_quantize: bool = True
    keep: tuple[str, ...] = ()
    rest_dtype: str = "bfloat16"
    calibrate: int = 0

    def __post_init__(self) -> None:
        if self.calibrate < 0:
            raise ValueError(f"calibrate {self.calibrate}: a number of utterances, or 0 for nearest levels")


@dataclasses.dataclass(frozen=True)
class CopyConfig:
    """How a speaker's own copy of the whole model is trained, where `--systems` names `full+copy`; the rest as `adapt`.

    Every weight learns, so the learning rate is a hundredth of an adapter's. By the loss on a LibriSpeech reader's dev
    utterances 1e-4 is worse than where a copy starts, 3e-5 as good and 1e-5 better; choose it with `--split dev`.
    """

    epochs: int = 6
    learning_rate: float = 1e-5
    decay: float = 0.8
    network_dropout: bool = True


@dataclasses.dataclass(frozen=True)
class UnsupervisedConfig:
    """Which of its own words the model learns from: those with at least so many nats a token, see `Line.confidence`."""

    min_confidence: float = -0.3


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides a result, apart from data and base.

    `text_case` is the letter case of references and training texts: `auto` for that which the base writes.
    `target_style` is how training texts are written: `corpus` as they are, `model` with the reference's words in the
    case and punctuation of the model's own hypothesis, `auto` for the latter where the model writes both and the corpus
    has none. `adapt_minutes` bounds the speech that a speaker's adapter learns from, two thirds of it for train and
    one for dev; 0 is all there is.
    """

    quantize: QuantizeConfig = QuantizeConfig()
    lora: LoraOptions = LoraOptions()
    pretrain: TrainOptions = TrainOptions()
    adapt: TrainOptions = TrainOptions()
    copy: CopyConfig = CopyConfig()
    adapt_minutes: float = 0.0
    unsupervised: UnsupervisedConfig = UnsupervisedConfig()
    decode: SearchOptions = SearchOptions()
    text_case: str = AUTO
    seed: int = 0
    target_style: str = dataclasses.field(default=AUTO, metadata=LATER)

    def __post_init__(self) -> None:
        if self.target_style not in STYLES:
            raise ValueError(f"target_style {self.target_style!r}: use one of {', '.join(STYLES)}")
        if self.text_case not in (AUTO, *CASES):
            raise ValueError(f"text_case {self.text_case!r}: use one of {', '.join((AUTO, *CASES))}")


def load_config(path: Path | None, inference: Path | None = None) -> Config:
    """Read a YAML file over the defaults, and `inference` over its `decode` section.

    Raises:
        PqmError: for an unknown key, naming the nearest one, or a value of the wrong kind.
    """
    values = _read(path) if path else {}
    if inference:
        values = {**values, "decode": {**values.get("decode", {}), **_read(inference)}}
    config: Config = _fill(Config, values, " ".join(str(name) for name in (path, inference) if name))
    return config


def load_as[T](cls: type[T], path: Path) -> T:
    """Read a YAML file as an instance of the dataclass `cls`; errors as in `load_config`."""
    return as_instance(cls, _read(path), str(path))


def as_instance[T](cls: type[T], values: Any, where: str) -> T:
    """Make an instance of the dataclass `cls` from keys and values; errors as in `load_config`, naming `where`."""
    filled: T = _fill(cls, values, where)
    return filled


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise PqmError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise PqmError(f"{path}: expected keys and values, got {values!r}")
    return values


def _fill(cls: type[Any], values: Any, where: str) -> Any:
    """An instance of the dataclass `cls` from a mapping, nested dataclasses included."""
    if not isinstance(values, Mapping):
        raise PqmError(f"{where}: expected keys and values, got {values!r}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.0)
            raise PqmError(f"{where}: unknown key {key!r}; did you mean {near[0]!r}? Known: {', '.join(fields)}")
    arguments = {key: _value(fields[key], value, f"{where}: {key}") for key, value in values.items()}
    try:
        return cls(**arguments)
    except ValueError as error:
        raise PqmError(f"{where}: {error}") from error


def _value(field: dataclasses.Field[Any], value: Any, where: str) -> Any:
    default = field.default
    if dataclasses.is_dataclass(default):
        return _fill(type(default), value, where)
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(default, float) and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            # YAML reads 1e-3 as text: it wants a dot before the exponent.
            value = float(value)
        except ValueError:
            raise PqmError(f"{where}: {value!r} is no number") from None
    allowed = (str, tuple) if "tuple" in str(field.type) and "str |" in str(field.type) else type(default)
    if not isinstance(value, allowed) or (isinstance(value, bool) and not isinstance(default, bool)):
        raise PqmError(f"{where}: {value!r} is no {type(default).__name__}")
    return value


def as_dict(config: Any) -> dict[str, Any]:
    """Plain values for JSON and YAML, tuples as lists; an option that came later only if it is not at its default."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in _flat(config).items()}


def _flat(config: Any) -> dict[str, Any]:
    return {
        field.name: as_dict(value) if dataclasses.is_dataclass(value) else value
        for field in dataclasses.fields(config)
        for value in [getattr(config, field.name)]
        if not (field.metadata.get("later") and value == field.default)
    }
