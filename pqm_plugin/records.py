"""Records of requests: whether a result on disk was made as it is asked for now."""

import hashlib
import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json

_log = logging.getLogger(__name__)


def request_hash(request: Mapping[str, Any]) -> str:
    """Hash (64 hexadecimal digits) of what was asked for, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def changed(earlier: Any, request: Mapping[str, Any]) -> list[str]:
    """Sorted keys of `request` whose values `earlier`, as it was read from JSON, lacks or has otherwise."""
    known = earlier if isinstance(earlier, Mapping) else {}
    return sorted(key for key, value in _as_json(request).items() if key not in known or known[key] != value)


def answers(earlier: Any, request: Mapping[str, Any], aside: Collection[str] = ()) -> bool:
    """Whether `earlier`, as it was read from JSON, is this very request.

    Args:
        aside: keys that hold what was found on the way, in either of the two.
    """
    if not isinstance(earlier, Mapping):
        return False
    then, now = ({key: one[key] for key in one if key not in aside} for one in (earlier, _as_json(request)))
    return then == now


def answers_or_says(earlier: Any, request: Mapping[str, Any], what: str, aside: Collection[str] = ()) -> bool:
    """The same; where the answer is no, the log says which settings of `what` changed."""
    if answers(earlier, request, aside):
        return True
    names = ", ".join(name for name in changed(earlier, request) if name not in aside)
    _log.info("%s: made with other settings (%s); doing it again", what, names or "fewer keys")
    return False


def is_done(record: Path, request: Mapping[str, Any], what: str) -> bool:
    """Whether `record`, a JSON file with a `request`, answers this one; if it cannot be read, the log says why."""
    if not record.exists():
        return False
    try:
        earlier = read_json(record).get("request")
    except (PqmError, AttributeError) as error:
        _log.warning("%s: %s; doing it again", what, error)
        return False
    return answers_or_says(earlier, request, what)


def _as_json(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request as it is when it was written and read again: tuples are lists, keys are text."""
    read: dict[str, Any] = json.loads(json.dumps(request))
    return read
