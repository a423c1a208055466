"""The options of a recipe's YAML, with their defaults."""

import dataclasses
from pathlib import Path

from pqm_plugin.adapters.options import LATER, LoraOptions, TrainOptions
from pqm_plugin.corpus.text import AUTO, CASES
from pqm_plugin.metrics.normalize import STYLES
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.settings import fill, named, read_yaml


@dataclasses.dataclass(frozen=True)
class QuantizeConfig:
    """Stage 3. `keep` names the layer kinds that stay in `rest_dtype`, see the sensitivity table of a recipe.

    `calibrate` is how many training utterances weights are rounded by, of SAT speakers or else of the targets, so that
    what layers compute on them changes least; it costs no byte. With 0 each weight goes to its nearest level.
    `joined_s` is how many seconds of these utterances, one after another, are heard at once; 0 for each by itself. A
    model that always computes a whole window would otherwise be rounded for the silence after short ones.
    """

    quant_type: str = "nf4"
    block_size: int = 64
    double_quantize: bool = True
    keep: tuple[str, ...] = ()
    rest_dtype: str = "bfloat16"
    calibrate: int = 0
    joined_s: float = dataclasses.field(default=0.0, metadata=LATER)

    def __post_init__(self) -> None:
        if self.joined_s < 0:
            raise ValueError(f"joined_s {self.joined_s}: seconds that are heard at once, or 0 for each utterance alone")
        if self.calibrate < 0:
            raise ValueError(f"calibrate {self.calibrate}: a number of utterances, or 0 for nearest levels")


@dataclasses.dataclass(frozen=True)
class CopyConfig:
    """How a speaker's own copy of the whole model is trained, where `--systems` names `full+copy`; the rest as `adapt`.

    Every weight is trained, so the learning rate is a hundredth of an adapter's. By the loss on a LibriSpeech reader's
    dev utterances 1e-4 is worse than where a copy starts, 3e-5 as good and 1e-5 better; choose it with `--split dev`.
    """

    epochs: int = 6
    learning_rate: float = 1e-5
    decay: float = 0.8
    network_dropout: bool = True


@dataclasses.dataclass(frozen=True)
class UnsupervisedConfig:
    """Which of its own words the model is trained on: those of at least so much log probability a token, in nats.

    In the YAML the bound is `min_confidence`; `pqm enroll` has one of the same name, which is a probability.
    """

    min_log_prob: float = named("min_confidence", -0.3)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides a result, apart from data and base.

    `text_case` is the letter case of references and training texts: `auto` for that which the base writes.
    `target_style` is how training texts are written: `corpus` as they are, `model` with the reference's words in the
    case and punctuation of the model's own hypothesis, `auto` for the latter where the model writes both and the corpus
    has none. `adapt_minutes` bounds the speech that a speaker's adapter is trained on, two thirds of it for train and
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
    values = read_yaml(path, "the settings of a recipe, as egs/librispeech/conf/pqm.yaml has them") if path else {}
    if inference:
        search = read_yaml(inference, "a decoding setting, such as `beam_size: 1`")
        values = {**values, "decode": {**values.get("decode", {}), **search}}
    return fill(Config, values, " ".join(str(name) for name in (path, inference) if name))
