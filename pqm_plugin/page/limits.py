"""How much the page takes in, so that no upload takes the machine's memory or its afternoon."""

from dataclasses import dataclass

from pqm_plugin.errors import PqmError


@dataclass(frozen=True)
class Limits:
    """The most that is accepted: bytes of one file, seconds of a recording that is heard or learned from, and of all.

    `total_s` bounds the sum of the recordings of one enrolment. Of the API: `n_waiting` requests are held at once,
    those that are computed among them, and each is answered or given up within `request_s`.
    """

    upload_bytes: int = 50 * 10**6
    recording_s: float = 600.0
    clip_s: float = 30.0
    total_s: float = 1800.0
    n_waiting: int = 64
    request_s: float = 300.0

    def __post_init__(self) -> None:
        if self.upload_bytes < 1 or min(self.recording_s, self.clip_s, self.total_s) <= 0:
            raise PqmError("the largest upload and the longest recording are above 0")
        if self.n_waiting < 1 or self.request_s <= 0:
            raise PqmError("the requests that may wait, and the seconds of each, are above 0")
