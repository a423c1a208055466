"""Where each word is in its utterance, by a small CTC model of letters on the encoder's output."""

import random
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from encoded_speech import WIDTH, Utterance
from torch import Tensor, nn

_LETTERS = " abcdefghijklmnopqrstuvwxyz'"  # from 1 on; 0 is CTC's blank
_NUMBER = {letter: number for number, letter in enumerate(_LETTERS, start=1)}
_EPOCHS, _RATE, _BATCH = 14, 2e-3, 8
_IMPOSSIBLE = -1e9


def align_words(utterances: Sequence[Utterance]) -> None:
    """Train the CTC model on `utterances` and fill in their `spans`."""
    head = nn.Sequential(
        nn.LayerNorm(WIDTH),
        nn.Linear(WIDTH, WIDTH),
        nn.GELU(),
        nn.Dropout(0.2),
        nn.Linear(WIDTH, len(_LETTERS) + 1),
    )
    optimizer = torch.optim.AdamW(head.parameters())
    for epoch in range(_EPOCHS):
        optimizer.param_groups[0]["lr"] = _RATE * (1 - epoch / _EPOCHS)
        losses = []
        for batch in _shuffled_batches(utterances):
            loss = _ctc_loss(head, batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(head.parameters(), 5)
            optimizer.step()
            losses.append(loss.item())
        print(f"ctc epoch {epoch} loss {np.mean(losses):.3f}", flush=True)
    head.eval()
    for utterance in utterances:
        speech = torch.from_numpy(np.array(utterance.encoded[: utterance.n_frames])).float()
        with torch.inference_mode():
            scores = head(speech).log_softmax(-1).numpy()
        utterance.spans = word_spans(scores, utterance.words)


def word_spans(scores: np.ndarray, words: Sequence[str]) -> list[tuple[int, int]]:
    """First and last frame of each word on the best path through CTC's states.

    Args:
        scores: log probabilities, (frames, 1 + letters).
    """
    states = np.array([0] + [state for number in _numbers(words) for state in (number, 0)])
    state, back = _best_path(scores, states)
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for frame in range(len(scores) - 1, -1, -1):
        if state % 2:
            first[state // 2] = frame
            last.setdefault(state // 2, frame)
        state -= back[frame, state]
    spans, place = [], 0
    for word in words:
        spans.append((first.get(place, 0), last.get(place + len(word) - 1, 0)))
        place += len(word) + 1
    return spans


def _best_path(scores: np.ndarray, states: np.ndarray) -> tuple[int, np.ndarray]:
    """The last state, and by (frame, state) how many states lie between it and the one before."""
    may_skip = np.zeros(len(states), bool)
    may_skip[2:] = (states[2:] != 0) & (states[2:] != states[:-2])
    best, back = np.full(len(states), _IMPOSSIBLE), np.zeros((len(scores), len(states)), int)
    best[:2] = scores[0, states[:2]]
    for frame in range(1, len(scores)):
        skipped = np.where(may_skip, np.r_[_IMPOSSIBLE, _IMPOSSIBLE, best[:-2]], _IMPOSSIBLE)
        moves = np.stack([best, np.r_[_IMPOSSIBLE, best[:-1]], skipped])
        back[frame] = moves.argmax(0)
        best = moves.max(0) + scores[frame, states]
    return len(states) - (1 if best[-1] > best[-2] else 2), back


def _numbers(words: Sequence[str]) -> list[int]:
    return [_NUMBER[letter] for letter in " ".join(words)]


def _shuffled_batches(utterances: Sequence[Utterance]) -> list[list[Utterance]]:
    ordered = sorted(utterances, key=lambda utterance: utterance.n_frames + random.uniform(0, 75))
    batches = [ordered[start : start + _BATCH] for start in range(0, len(ordered), _BATCH)]
    random.shuffle(batches)
    return batches


def _ctc_loss(head: nn.Module, batch: Sequence[Utterance]) -> Tensor:
    longest = max(utterance.n_frames for utterance in batch)
    speech = torch.from_numpy(np.stack([utterance.encoded[:longest] for utterance in batch])).float()
    targets = [_numbers(utterance.words) for utterance in batch]
    return F.ctc_loss(
        head(speech).log_softmax(-1).transpose(0, 1),
        torch.tensor([number for target in targets for number in target]),
        torch.tensor([utterance.n_frames for utterance in batch]),
        torch.tensor([len(target) for target in targets]),
        zero_infinity=True,
    )
