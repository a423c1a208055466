"""Whether what a stage asks for is already there."""

import hashlib
import json
import logging
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pqm_plugin.corpus.utterance import Utterance
from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json


def digest(utterances: Sequence[Utterance]) -> str:
    """Hash of what utterances say of themselves: names, speakers, texts, places and sizes of the audio."""
    text = json.dumps([(repr(utterance), size_bytes(utterance)) for utterance in utterances])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def size_bytes(utterance: Utterance) -> int:
    """Of the file that the audio is in; 0 where it is in none of its own."""
    try:
        status = os.stat(utterance.audio)
    except (OSError, ValueError):
        # No path, but an archive's offset or a command.
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def request_hash(request: Mapping[str, Any]) -> str:
    """Hash of what was asked for, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


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
