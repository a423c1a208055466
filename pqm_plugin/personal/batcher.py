"""Search pieces of speech of many requests together: one queue, one thread, each row with its own adapter."""

import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pqm_plugin.errors import PqmError
from pqm_plugin.models.interface import Hypothesis
from pqm_plugin.personal.hearing import Listening, Search, Tongue

_log = logging.getLogger(__name__)


class GoneError(Exception):
    """Whoever asked has gone, or has waited too long: nothing more is computed."""


@dataclass(eq=False)
class _Call:
    """The pieces of one call of `search`, and what became of them."""

    language: str
    n_left: int
    gone: threading.Event
    found: dict[int, Hypothesis] = field(default_factory=dict)
    error: Exception | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def fail(self, error: Exception) -> None:
        self.error = error
        self.ended.set()

    def is_wanted(self) -> bool:
        """Whether somebody waits for its rows; ends it where nobody does."""
        if self.gone.is_set():
            self.fail(GoneError())
        return not self.ended.is_set()


@dataclass(frozen=True, eq=False)
class _Row:
    piece: Any
    folder: Path | None
    call: _Call
    place: int


class Batcher:
    """Searches what threads hand in, oldest first; nothing waits for company, it comes while a batch is computed.

    A batch holds rows of one language, `Listening.max_batch` of them at most, and beside the oldest row those
    nearest to its length: a batch takes as long as its longest row.
    """

    def __init__(self, model: Listening) -> None:
        self._model = model
        self._rows: deque[_Row] = deque()
        self._changed = threading.Condition()
        self._computing: list[_Row] = []
        self._is_closed = False
        self.n_batches = 0
        """Batches computed so far, and the rows in them."""
        self.n_rows = 0
        self._worker = threading.Thread(target=self._work, name="pqm batches", daemon=True)
        self._worker.start()

    def searching(self, gone: threading.Event) -> Search:
        """A search for `Listening.hear` that computes here, until `gone` is set.

        Raises:
            GoneError: from the search, when `gone` is set before it has ended, or the batcher is closed.
            PqmError: from the search, as `Listening.search` does.
        """

        def search(speech: Sequence[Any], folder: Path | None, tongue: Tongue) -> list[Hypothesis]:
            if gone.is_set():
                raise GoneError
            if tongue.is_open:
                tongue.settle(self._model.language_of(speech, folder))
            call = _Call(tongue.language, len(speech), gone)
            with self._changed:
                if self._is_closed:
                    raise GoneError
                self._rows.extend(_Row(piece, folder, call, place) for place, piece in enumerate(speech))
                self._changed.notify()
            call.ended.wait()
            if call.error is not None:
                raise call.error
            return [call.found[place] for place in range(len(speech))]

        return search

    def wake(self) -> None:
        """Look at once which callers have gone; a batch that is being computed goes on for the others in it."""
        with self._changed:
            self._drop_unwanted()
            for row in self._computing:
                row.call.is_wanted()

    def close(self) -> None:
        """Compute nothing more; who waits is told that it is gone."""
        with self._changed:
            self._is_closed = True
            for row in self._rows:
                row.call.fail(GoneError())
            self._rows.clear()
            self._changed.notify()
        self._worker.join()

    def _work(self) -> None:
        while batch := self._next():
            self._compute(batch)

    def _next(self) -> list[_Row]:
        """The rows to compute now; none when it is closed."""
        with self._changed:
            while True:
                self._drop_unwanted()
                if self._rows or self._is_closed:
                    break
                self._changed.wait()
            self._computing = self._picked() if self._rows else []
            return self._computing

    def _drop_unwanted(self) -> None:
        self._rows = deque(row for row in self._rows if row.call.is_wanted())

    def _picked(self) -> list[_Row]:
        oldest = self._rows[0]
        fitting = [row for row in self._rows if row.call.language == oldest.call.language]
        # The sort is stable: of equal lengths the older go first, and the oldest of all is always there.
        nearest = sorted(fitting, key=lambda row: (row is not oldest, abs(len(row.piece) - len(oldest.piece))))
        picked = nearest[: self._model.max_batch]
        chosen = set(map(id, picked))
        self._rows = deque(row for row in self._rows if id(row) not in chosen)
        return picked

    def _compute(self, rows: Sequence[_Row]) -> None:
        self.n_batches += 1
        self.n_rows += len(rows)
        try:
            self._search(rows)
        except Exception as error:  # noqa: BLE001  # Whatever it is belongs to the call, and the next batch goes on.
            if len({id(row.call) for row in rows}) == 1:
                self._failed(rows[0].call, error)
                return
            # One call's adapter or sound is not a reason for another's to fail.
            for call in dict.fromkeys(row.call for row in rows):
                try:
                    self._search([row for row in rows if row.call is call])
                except Exception as own:  # noqa: BLE001
                    self._failed(call, own)

    def _failed(self, call: _Call, error: Exception) -> None:
        if not isinstance(error, PqmError):
            _log.error("a batch failed (%s: %s)", type(error).__name__, error)
        call.fail(error)

    def _search(self, rows: Sequence[_Row]) -> None:
        pieces, folders = [row.piece for row in rows], [row.folder for row in rows]
        found = self._model.search(pieces, folders, rows[0].call.language)
        for row, best in zip(rows, found, strict=True):
            row.call.found[row.place] = best
            row.call.n_left -= 1
            if not row.call.n_left:
                row.call.ended.set()
