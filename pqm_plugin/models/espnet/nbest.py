"""The n best hypotheses of an ESPnet model, as ESPnet's own `Speech2Text` gives them."""

from typing import Any

import numpy as np

from pqm_plugin.errors import PqmError
from pqm_plugin.models.interface import Recognizer


def espnet_nbest(recognizer: Recognizer, speech: Any, n: int) -> list[tuple[Any, ...]]:
    """Tuples of text, tokens, token ids and ESPnet's `Hypothesis`, best first, from the search of ESPnet itself.

    Args:
        speech: float32 (n_samples,) at the model's rate, an array or a tensor, as `Speech2Text.__call__` takes it.

    Raises:
        PqmError: if the recogniser is of another family.
    """
    speech2text = getattr(recognizer, "speech2text", None)
    if speech2text is None:
        raise PqmError("n-best tuples are ESPnet's: for a model of another family use `transcribe`")
    before, speech2text.nbest = speech2text.nbest, n
    try:
        found: list[tuple[Any, ...]] = speech2text(
            np.asarray(speech, dtype=np.float32) if isinstance(speech, list) else speech
        )
    finally:
        speech2text.nbest = before
    return found
