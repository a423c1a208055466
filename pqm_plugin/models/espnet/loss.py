"""What ESPnet's hybrid models are trained by, of groups of utterances that are computed together."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pqm_plugin.models.interface import Loss, groups


def losses(model: Any, encoded: Tensor, lengths: Tensor, tokens: Sequence[Tensor], sizes: Sequence[int]) -> list[Loss]:
    """ESPnet's own mixture of CTC and attention losses with the model's `ctc_weight` and label smoothing.

    The decoder runs once; each group has the loss that ESPnet's `_calc_att_loss` and `_calc_ctc_loss` give for it.

    Args:
        model: ESPnet's, with a decoder and a CTC layer.
        encoded: (B, T, D), of which `lengths`, int64 (B,), are heard.
        tokens: of each row, int64 (U,).
        sizes: rows of each group, one after another.
    """
    device = encoded.device
    text = pad_sequence(list(tokens), batch_first=True, padding_value=model.ignore_id).to(device)
    text_lengths = torch.tensor([len(row) for row in tokens], device=device)
    logits, labels = _decoded(model, encoded, lengths, tokens)
    counted = labels != model.ignore_id
    n_right, n_counted = ((logits.argmax(-1) == labels) & counted).sum(1).tolist(), counted.sum(1).tolist()
    found = []
    for rows in groups(sizes):
        attention = model.criterion_att(logits[rows], labels[rows])
        ctc, _ = model._calc_ctc_loss(encoded[rows], lengths[rows], text[rows], text_lengths[rows])
        n_rows = rows.stop - rows.start
        # ESPnet's losses are means over the batch's utterances.
        total = (model.ctc_weight * ctc + (1 - model.ctc_weight) * attention) * n_rows
        found.append(Loss(total.squeeze(), n_rows, sum(n_right[rows]), sum(n_counted[rows])))
    return found


def _decoded(model: Any, encoded: Tensor, lengths: Tensor, tokens: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Logits with each text given, (B, U + 1, V), and the labels, int64 (B, U + 1): the text and its end."""
    start, end = (torch.tensor([token]) for token in (model.sos, model.eos))
    language = getattr(model, "lang_token_id", None)
    rows = [row.cpu() if language is None else torch.cat([language.flatten().cpu(), row.cpu()]) for row in tokens]
    given, labels = [torch.cat([start, row]) for row in rows], [torch.cat([row, end]) for row in rows]
    into = pad_sequence(given, batch_first=True, padding_value=model.eos).to(encoded.device)
    into_lengths = torch.tensor([len(row) for row in given], device=encoded.device)
    logits, _ = model.decoder(encoded, lengths, into, into_lengths)
    return logits, pad_sequence(labels, batch_first=True, padding_value=model.ignore_id).to(encoded.device)
