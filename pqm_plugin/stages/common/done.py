"""Whether what a stage asks for is already there."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json


def digest(utterances: Sequence[Utterance]) -> str:
    """Hash of what utterances say of themselves: names, speakers, texts, places and sizes of the audio."""
    text = json.dumps([(repr(utterance), _size_bytes(utterance)) for utterance in utterances])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _size_bytes(utterance: Utterance) -> int:
    path = Path(utterance.audio)
    return path.stat().st_size if path.is_file() else 0


def is_done(record: Path, request: Mapping[str, Any], what: str) -> bool:
    """Whether `record` (JSON with a `request`) answers this very request; a different one is named in the log."""
    if not record.exists():
        return False
    try:
        earlier = read_json(record).get("request")
    except (PqmError, AttributeError) as error:
        logging.warning("%s: %s; doing it again", what, error)
        return False
    if earlier == json.loads(json.dumps(request)):
        return True
    changed = sorted(key for key in request if not isinstance(earlier, dict) or earlier.get(key) != request[key])
    logging.info("%s: made with other settings (%s); doing it again", what, ", ".join(changed) or "fewer keys")
    return False
