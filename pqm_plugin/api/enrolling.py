"""Learning a voice for a caller who watches: events of how far it is, and of how it ended."""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from pqm_plugin.api.errors import event, told
from pqm_plugin.api.service import Service, unplaced
from pqm_plugin.errors import PqmError
from pqm_plugin.page.desk import Reading
from pqm_plugin.personal.enrollment import Enrolled

_log = logging.getLogger(__name__)
# Proxies close what is silent for longer.
_SILENT_S = 10.0


async def enrolling(
    service: Service, speaker: str, readings: Sequence[Reading], *, anew: bool
) -> AsyncGenerator[bytes]:
    """Learn, and yield server-sent events: progress, then what was learned, or an error.

    A caller who goes ends it after the batch that is being computed; the same recordings go on from there.
    """
    news: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue()
    loop, user = asyncio.get_running_loop(), f"api {secrets.token_hex(8)}"

    def tell(value: Mapping[str, Any] | None) -> None:
        loop.call_soon_threadsafe(news.put_nowait, value)

    def watch(step: str, done: int, total: int) -> None:
        tell({"type": "speaker.progress", "step": step, "done": done, "total": total})

    def learn() -> None:
        try:
            done = service.desk.enroll(user, speaker, readings, anew=anew, watch=watch)
            tell(_done(done))
        except PqmError as error:
            tell(told(_named(error, readings)))
        except Exception as error:  # noqa: BLE001  # Whatever it is, the caller is told that it ended.
            _log.exception("an enrolment failed")
            tell(told(error))
        finally:
            tell(None)

    loop.run_in_executor(service.learners, learn)
    try:
        while True:
            try:
                value = await asyncio.wait_for(news.get(), _SILENT_S)
            except TimeoutError:
                yield b": still here\n\n"
                continue
            if value is None:
                break
            yield event(value)
        yield b"data: [DONE]\n\n"
    finally:
        service.desk.stop(user)


def _named(error: PqmError, readings: Sequence[Reading]) -> PqmError:
    """The error with recordings called by their place among those that were sent."""
    words = str(error)
    for number, reading in enumerate(readings, start=1):
        words = words.replace(str(reading.path), f"recording {number}").replace(
            reading.path.name, f"recording {number}"
        )
    return unplaced(PqmError(words), readings[0].path)


def _done(found: Enrolled) -> Mapping[str, Any]:
    return {
        "type": "speaker.done",
        "id": found.speaker,
        "n_clips": found.n_clips,
        "duration": round(found.duration_s, 3),
        "is_new": found.is_new,
    }
