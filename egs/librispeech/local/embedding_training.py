"""Training on pieces of utterances, from single words to the whole."""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from embedding_learner import IGNORED, Batch, Learner
from encoded_speech import MAX_FRAMES, WIDTH, Utterance
from torch import nn
from word_vocabulary import END, NO_TIMESTAMPS, START, Vocabulary

Piece = tuple[np.ndarray, list[int]]  # encoder's frames, token ids
_MARGIN = 6  # frames that are heard before and after a slice's words
_TOKENS = 300  # of a batch
_WARMUP = 30  # steps
_AVERAGED_FROM = 0.6  # of all steps


def usual_silence() -> int:
    """Frames that are heard after a whole utterance."""
    return 50


@dataclass(frozen=True)
class Stage:
    """Some steps on pieces of like length."""

    n_words: Callable[[], int | None]  # draws a piece's length; None for the whole utterance
    n_steps: int
    repeats: int  # pieces of each utterance before batches are made anew


@dataclass(frozen=True)
class Regime:
    """How one optimizer trains, stage by stage."""

    stages: Sequence[Stage]
    rate: float  # of the embedding
    decoder_rate: float  # 0 for a frozen decoder
    dropout: float = 0.0
    word_drop: float = 0.0
    smoothing: float = 0.0
    hides_frames: bool = False
    average: float = 0.0  # decay of the running mean of the weights, which is what is kept; 0 for none
    silence: Callable[[], int] = usual_silence  # draws the frames that are heard after a whole utterance


def train(learner: Learner, utterances: Sequence[Utterance], vocabulary: Vocabulary, regime: Regime) -> None:
    """Train the embedding, and the rest of the decoder if the regime gives it a rate."""
    optimizer = _optimizer(learner, regime)
    full_rates = [group["lr"] for group in optimizer.param_groups]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    learner.set_dropout(regime.dropout)
    learner.train()
    n_steps, began = sum(stage.n_steps for stage in regime.stages), time.process_time()
    mean: list[torch.Tensor] = []
    losses: list[float] = []
    for step, pieces in enumerate(_scheduled(utterances, vocabulary, regime)):
        scale = _rate_scale(step, n_steps)
        for group, full in zip(optimizer.param_groups, full_rates, strict=True):
            group["lr"] = full * scale
        loss = learner.loss(collate(pieces, regime.hides_frames), regime.word_drop, regime.smoothing)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if regime.average and step / n_steps > _AVERAGED_FROM:
            mean = mean or [parameter.detach().clone() for parameter in parameters]
            for averaged, parameter in zip(mean, parameters, strict=True):
                averaged.lerp_(parameter.detach(), 1 - regime.average)
        losses.append(loss.item())
        if (step + 1) % 50 == 0 or step + 1 == n_steps:
            spent = time.process_time() - began
            print(f"step {step + 1}/{n_steps} loss {np.mean(losses):.3f} cpu {spent:.0f} s", flush=True)
            losses = []
    if mean:
        for averaged, parameter in zip(mean, parameters, strict=True):
            parameter.data.copy_(averaged)
    learner.eval()


def cut_piece(
    utterance: Utterance, n_words: int | None, vocabulary: Vocabulary, silence: Callable[[], int] = usual_silence
) -> Piece:
    """A random run of `n_words` words; for None or more than there are, the utterance and some silence after it."""
    prompt = [vocabulary.special[START], vocabulary.special[NO_TIMESTAMPS]]
    if n_words is None or n_words >= len(utterance.words):
        heard = utterance.encoded[: min(MAX_FRAMES, utterance.n_frames + silence())]
        said = utterance.ids
    else:
        start = random.randrange(len(utterance.words) - n_words + 1)
        first, last = utterance.spans[start][0], utterance.spans[start + n_words - 1][1]
        heard = utterance.encoded[max(0, first - _MARGIN) : last + _MARGIN + 1]
        said = utterance.ids[start : start + n_words]
    return heard, [*prompt, *(number for word in said for number in word), vocabulary.special[END]]


def collate(pieces: Sequence[Piece], hides_frames: bool) -> Batch:
    """One padded batch; `hides_frames` hides a few random stretches of up to 12 frames from the decoder."""
    longest, n_tokens = max(len(heard) for heard, _ in pieces), max(len(ids) for _, ids in pieces)
    frames = np.zeros((len(pieces), longest, WIDTH), np.float16)
    mask = torch.zeros(len(pieces), 1, 1, longest, dtype=torch.bool)
    targets = torch.full((len(pieces), n_tokens), IGNORED)
    for row, (heard, ids) in enumerate(pieces):
        n_frames = len(heard)
        frames[row, :n_frames], mask[row, ..., :n_frames] = heard, True
        targets[row, : len(ids)] = torch.tensor(ids)
        if hides_frames and n_frames > 60:
            for _ in range(1 + n_frames // 150):
                width = random.randint(0, 12)
                start = random.randrange(n_frames - width)
                mask[row, ..., start : start + width] = False
    return torch.from_numpy(frames).float(), mask, targets


def _optimizer(learner: Learner, regime: Regime) -> torch.optim.Optimizer:
    decoder = [
        parameter
        for name, parameter in learner.named_parameters()
        if "embed_tokens" not in name and name != "embedding"
    ]
    for parameter in decoder:
        parameter.requires_grad_(regime.decoder_rate > 0)
    groups = [{"params": [learner.embedding], "lr": regime.rate}]
    if regime.decoder_rate:
        groups.append({"params": decoder, "lr": regime.decoder_rate})
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)


def _rate_scale(step: int, n_steps: int) -> float:
    """A short warm-up, half way at the full rate, then a cosine down to 2 %."""
    cosine = 0.5 * (1 + math.cos(math.pi * max(0.0, 2 * (step / n_steps) - 1)))
    return min(1, (step + 1) / _WARMUP) * max(0.02, cosine)


def _scheduled(utterances: Sequence[Utterance], vocabulary: Vocabulary, regime: Regime) -> Iterator[list[Piece]]:
    for stage in regime.stages:
        yield from islice(_batches(utterances, vocabulary, stage, regime.silence), stage.n_steps)


def _batches(
    utterances: Sequence[Utterance], vocabulary: Vocabulary, stage: Stage, silence: Callable[[], int]
) -> Iterator[list[Piece]]:
    """Without end: pieces with about as many tokens each, `_TOKENS` together."""
    while True:
        pool = [
            cut_piece(utterance, stage.n_words(), vocabulary, silence)
            for utterance in utterances
            for _ in range(stage.repeats)
        ]
        pool.sort(key=lambda piece: len(piece[1]) + 2 * random.random())
        made: list[list[Piece]] = []
        current: list[Piece] = []
        for piece in pool:
            if current and (len(current) + 1) * max(len(ids) for _, ids in [*current, piece]) > _TOKENS:
                made.append(current)
                current = []
            current.append(piece)
        made.append(current)
        random.shuffle(made)
        yield from made
