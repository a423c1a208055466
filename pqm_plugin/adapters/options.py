"""How an adapter is trained, and the names of its files; imports no library."""

from dataclasses import dataclass, field

INFO = "pqm.json"
"""Which base an adapter was made for, and how."""
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
OWN_WEIGHTS = "weights.safetensors"
"""Weights of a speaker that are not an adapter in PEFT's format, see `full_weights.py`."""


LATER = {"later": True}
"""Marks an option that came after others: at its default it is not part of a request, so old adapters stay done."""


@dataclass(frozen=True)
class LoraOptions:
    """The adapter's shape; `targets` is a preset of the model family, or full layer names.

    `max_fraction` is the largest share of the base's parameters that it may have.
    """

    targets: str | tuple[str, ...] = "attention"
    rank: int = 4
    alpha: float = 8.0
    dropout: float = 0.1
    max_fraction: float = 0.01


@dataclass(frozen=True)
class TrainOptions:
    """How an adapter is trained; the dev score decides which epoch is kept, epoch 0 (untrained) included.

    `learning_rate` falls by `schedule`: `epochs`, by the factor `decay` with each epoch, or `linear`, evenly from
    batch to batch until it would be 0 after the last epoch; `batch_frames` bounds the padded feature frames of a
    batch; `patience` is the number of epochs without a better dev score after which training stops, 0 for never;
    `network_dropout` turns on the base's own dropout beside the adapter's; `criterion` is `accuracy`
    (teacher-forced tokens) or `loss`. `top_layers` is the number of the encoder's uppermost layers whose adapters
    are trained, with the decoder's, 0 for all: what is below them is computed once. `joined_s` is the longest
    example, in seconds, that is made of several utterances of one speaker, one after another, for a decoder that
    must keep its place in long speech; 0 for none. `joined_copies` is how often every utterance is in one of these,
    beside the one that it is by itself; `joined_alone` leaves that one out, for a model that computes a whole
    window for any utterance. `spec_augment` hides bands and stretches of training speech, see `batches.masked`. The
    up-projections B are trained at `lora_plus` times the learning rate (arXiv 2402.12354), 1 for plain LoRA.
    """

    epochs: int = 10
    learning_rate: float = 1e-3
    decay: float = 0.9
    batch_frames: int = 2000
    clip_norm: float = 5.0
    patience: int = 0
    network_dropout: bool = False
    criterion: str = "accuracy"
    top_layers: int = 0
    joined_s: float = 0.0
    joined_copies: int = 1
    joined_alone: bool = field(default=False, metadata=LATER)
    spec_augment: bool = field(default=False, metadata=LATER)
    lora_plus: float = field(default=1.0, metadata=LATER)
    schedule: str = field(default="epochs", metadata=LATER)

    def __post_init__(self) -> None:
        if self.criterion not in ("accuracy", "loss"):
            raise ValueError(f"criterion {self.criterion!r}: use 'accuracy' or 'loss'")
        if self.schedule not in ("epochs", "linear"):
            raise ValueError(f"schedule {self.schedule!r}: use 'epochs' or 'linear'")
        if self.joined_alone and not self.joined_s:
            raise ValueError("joined_alone without joined_s: give the longest joined example in seconds")
        if self.lora_plus <= 0:
            raise ValueError(f"lora_plus {self.lora_plus}: a factor above 0, 1 for none")
        if self.top_layers < 0:
            raise ValueError(f"top_layers {self.top_layers}: use 0 for all, or how many are trained")

    def rate(self, epoch: int, share: float) -> float:
        """The learning rate in an epoch, counted from 1, of whose batches `share` in [0, 1) are done."""
        if self.schedule == "linear":
            return self.learning_rate * (1 - (epoch - 1 + share) / self.epochs)
        return self.learning_rate * self.decay ** (epoch - 1)
