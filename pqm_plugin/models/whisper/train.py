"""Train a small Whisper-shaped model from scratch: network, epochs, averaged weights."""

import json
import math
import random
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pqm_plugin.errors import PqmError
from pqm_plugin.files import exclusive, sha256, whole_file, write_text
from pqm_plugin.models.networks import threads
from pqm_plugin.models.training_folder import claim, digest, read_lists, tidy
from pqm_plugin.models.whisper import library as whisper_library
from pqm_plugin.models.whisper.data import (
    END,
    IGNORED,
    NO_TIMESTAMPS,
    PREVIOUS,
    SAMPLE_RATE,
    START,
    Batch,
    Utterance,
    WhisperOptions,
    batches,
    feature_extractor,
    load_options,
    load_utterances,
    make_tokenizer,
    token_id,
    training_batch,
    whole_windows,
)
from pqm_plugin.progress import Bar

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


_CHECKPOINT = "checkpoint.pth"
# What only training needs; `.done` is there before any of it goes.
_SCAFFOLD = (_CHECKPOINT, ".lock", ".*.partial", ".export.*")
_BETAS = (0.9, 0.98)


def train_base(
    train_data: Path,
    valid_data: Path,
    config: Path,
    out: Path,
    *,
    token_type: str,
    n_tokens: int,
    speed_factors: Sequence[float] = (),
    ngpu: int = 0,
    n_threads: int = 2,
    seed: int = 0,
) -> None:
    """Train a model from Kaldi data folders and leave an ordinary Hugging Face Whisper folder.

    The same call after a kill goes on from the last whole epoch; once finished it returns at once. On the CPU the same
    seed and number of threads give the same bytes. Features are kept in memory, 115 MB an hour of speech. Where no
    transcript holds a lower-case letter, all are lower-cased: the model then writes lower case.

    Args:
        train_data: holds `wav.scp` with plain audio files of 16 kHz, and `text`.
        config: see `options.WhisperOptions`.
        token_type: must be `bpe`; `n_tokens` as in `make_tokenizer`.
        speed_factors: must be empty.
        ngpu: 1 for a GPU; 0 for the CPU, then with `n_threads` threads.

    Raises:
        PqmError: if a data folder, the config or the number of tokens does not do, if `out` was begun with other
            data or options, if another process trains into it, or if the loss is no longer finite.
    """
    options = load_options(config)
    if speed_factors:
        raise PqmError("--speed_perturb: Whisper's trainer has none; leave it out")
    if ngpu > 1:
        raise PqmError(f"--ngpu {ngpu}: a Whisper model of this size trains on one GPU; give --ngpu 1")
    texts = [read_lists(folder)[1] for folder in (train_data, valid_data)]
    inputs = {"config": sha256(config), "transcripts": [digest(entries) for entries in texts]}
    claim(out, inputs | {"token_type": token_type, "n_tokens": n_tokens, "seed": seed})
    if not (out / ".done").exists():
        with exclusive(out / ".lock"), threads(n_threads), torch.random.fork_rng():
            texts = _in_one_case(texts)
            tokenizer = make_tokenizer(list(texts[0].values()), token_type, n_tokens)
            run = _begin(out, options, tokenizer, seed, "cuda" if ngpu else "cpu")
            if run.epoch < options.train.epochs:
                folders = zip((train_data, valid_data), texts, strict=True)
                _train(run, *(load_utterances(folder, entries, tokenizer, options) for folder, entries in folders))
            _finish(run, tokenizer)
    tidy(out, _SCAFFOLD)


def training_sample_rate(config: Path) -> int:
    """The sample rate in Hz of a model of this training config: Whisper has only one."""
    load_options(config)
    return SAMPLE_RATE


def _in_one_case(texts: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Lower case, where nothing tells that the transcripts' case means something."""
    if any(letter.islower() for entries in texts for text in entries.values() for letter in text):
        return list(texts)
    return [{key: text.lower() for key, text in entries.items()} for entries in texts]


@dataclass
class _Run:
    """A training run between two epochs; all that it remembers is in its checkpoint."""

    out: Path
    options: WhisperOptions
    seed: int
    device: str
    learner: Learner
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    kept: list[tuple[float, int, dict[str, Tensor]]] = field(default_factory=list)
    log: list[dict[str, float]] = field(default_factory=list)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained: everything but the encoder's positions."""
        return [value for value in self.learner.parameters() if value.requires_grad]

    def add(self, row: dict[str, float]) -> None:
        """Take in a finished epoch and write everything down."""
        self.epoch += 1
        self.log.append({"epoch": self.epoch, **row})
        self.kept.append((row["valid_accuracy"], self.epoch, copy_weights(self.learner)))
        self.kept = sorted(self.kept, key=lambda kept: kept[:2])[-self.options.train.average :]
        state = {"weights": copy_weights(self.learner), "optimizer": self.optimizer.state_dict()}
        # Through an open file: given a path, torch writes its name into the file.
        with whole_file(self.out / _CHECKPOINT) as scratch, scratch.open("wb") as opened:
            torch.save(state | {"epoch": self.epoch, "kept": self.kept, "log": self.log}, opened)
        self.write_log()

    def write_log(self) -> None:
        """Write one line of JSON an epoch to `train.log`."""
        write_text(self.out / "train.log", "".join(f"{json.dumps(row)}\n" for row in self.log))


def _begin(
    out: Path, options: WhisperOptions, tokenizer: "whisper_library.WhisperTokenizer", seed: int, device: str
) -> _Run:
    """A run at its start, or after the last whole epoch of an earlier one."""
    torch.manual_seed(seed)
    learner = Learner(options, tokenizer).to(device)
    trained = [value for value in learner.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, betas=_BETAS, weight_decay=options.train.weight_decay)
    run = _Run(out, options, seed, device, learner, optimizer)
    checkpoint = out / _CHECKPOINT
    if checkpoint.exists():
        state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
        put_weights(learner, state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        run.epoch, run.kept, run.log = state["epoch"], state["kept"], state["log"]
    return run


def _train(run: _Run, train: Sequence[Utterance], valid: Sequence[Utterance]) -> None:
    """Go on to the last epoch."""
    options = run.options.train
    per_epoch = -(-len(train) // options.batch_size)
    done, total = run.epoch * per_epoch, options.epochs * per_epoch
    with Bar(total=total, initial=done, desc="Whisper training", unit="batch", mininterval=1) as bar:
        for epoch in range(run.epoch, options.epochs):
            # From the epoch alone, so that an interrupted run draws the same.
            rng = random.Random(f"{run.seed} {epoch}")
            torch.manual_seed(rng.getrandbits(48))
            losses = []
            run.learner.train()
            for step, chosen in enumerate(batches(train, options.batch_size, rng), start=epoch * per_epoch + 1):
                losses.append(_step(run, chosen, _rate(run.options, step, total), rng))
                bar.update()
            run.add({"train_loss": statistics.fmean(losses), **_validate(run, valid)})
            bar.set_postfix_str(f"epoch {run.epoch}, valid accuracy {run.log[-1]['valid_accuracy']:.4f}")


def _rate(options: WhisperOptions, step: int, total: int) -> float:
    """The learning rate rises evenly to its greatest and falls along a half cosine to nothing."""
    warmup = options.train.warmup_steps
    if step <= warmup:
        return options.train.learning_rate * step / warmup
    return options.train.learning_rate * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2


def _step(run: _Run, chosen: Sequence[Utterance], rate: float, rng: random.Random) -> float:
    """Learn from a batch; its loss."""
    options = run.options.train
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    cost = run.learner(training_batch(chosen, run.options, rng).to(run.device), options.label_smoothing)
    loss = (1 - options.ctc_weight) * cost.decoder + options.ctc_weight * cost.ctc
    if not torch.isfinite(loss):
        raise PqmError(f"{run.out}: the loss is no longer finite; use a smaller learning_rate, in a new --expdir")
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(run.parameters, options.clip_norm)
    run.optimizer.step()
    return float(loss.detach())


@torch.no_grad()
def _validate(run: _Run, valid: Sequence[Utterance]) -> dict[str, float]:
    """Cost and token accuracy on whole windows, as `generate` sees them."""
    run.learner.eval()
    size = run.options.train.batch_size
    losses, ctc, n_correct, n_tokens = [], [], 0, 0
    for start in range(0, len(valid), size):
        cost = run.learner(whole_windows(valid[start : start + size], run.options).to(run.device))
        losses.append(float(cost.decoder))
        ctc.append(float(cost.ctc))
        n_correct += cost.n_correct
        n_tokens += cost.n_tokens
    means = {"valid_loss": statistics.fmean(losses), "valid_ctc_loss": statistics.fmean(ctc)}
    return means | {"valid_accuracy": n_correct / n_tokens}


def _finish(run: _Run, tokenizer: "whisper_library.WhisperTokenizer") -> None:
    """Leave the mean of the best epochs as a Hugging Face folder and mark it as done."""
    weights = [weights for _, _, weights in run.kept]
    put_weights(run.learner, {name: torch.stack([each[name] for each in weights]).mean(0) for name in weights[0]})
    run.write_log()
    with tempfile.TemporaryDirectory(prefix=".export.", dir=run.out) as folder:
        run.learner.cpu()
        run.learner.whisper.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        feature_extractor(run.options).save_pretrained(folder)
        for path in sorted(Path(folder).iterdir()):
            with whole_file(run.out / path.name) as scratch:
                shutil.copyfile(path, scratch)
    write_text(run.out / ".done", "")
