"""The events as gradio calls them: with its progress bar, its sessions and its way to show errors."""

import functools
from collections.abc import Callable
from html import escape
from typing import Any

import gradio as gr

from pqm_plugin.errors import PqmError
from pqm_plugin.page.events import ANYONE, Events, Show
from pqm_plugin.page.script import Script

# gradio passes on what a handler's signature names as such; the instance itself is never used.
_PROGRESS = gr.Progress()


def _in_words[**P, R](handler: Callable[P, R]) -> Callable[P, R]:
    """Show a `PqmError` as what it says; it may quote what a stranger named a file, and gradio takes it for HTML."""

    @functools.wraps(handler)
    def answering(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return handler(*args, **kwargs)
        except PqmError as error:
            raise gr.Error(escape(str(error)), duration=None, title="Not done", print_exception=False) from error

    return answering


def _shown(progress: gr.Progress) -> Show:
    return lambda part, words: progress(part, desc=words)


def _user(request: gr.Request) -> str:
    """One window of one browser."""
    return str(request.session_hash)


class Answers:
    """One method for each thing that can be pressed; see `events.Events` for what they do."""

    def __init__(self, events: Events) -> None:
        self._events = events

    @_in_words
    def now(self, chosen: str) -> tuple[Any, str]:
        """Who can be chosen, with `chosen` among them if it can, and the sizes."""
        names = self._events.speakers()
        known = chosen if chosen in [value for _, value in names] else ANYONE
        return gr.update(choices=names, value=known), self._events.facts()

    @_in_words
    def hear(self, speaker: str, recording: str | None, progress: gr.Progress = _PROGRESS) -> str:
        """Both transcripts."""
        return self._events.hear(speaker, recording, _shown(progress))

    @_in_words
    def keep(self, script: Script, text: str, recording: str | None) -> tuple[Any, ...]:
        """The script with one more sentence, and what shows it."""
        return self._reading(self._events.keep(script, text, recording))

    @_in_words
    def skip(self, script: Script) -> tuple[Any, ...]:
        """The script without this sentence, and what shows it."""
        return self._reading(script.skip())

    @_in_words
    def take_back(self, script: Script) -> tuple[Any, ...]:
        """The script without the last that was kept, and what shows it."""
        return self._reading(script.take_back())

    def fresh(self) -> tuple[Any, ...]:
        """The script from its beginning, and what shows it."""
        return self._reading(self._events.script())

    def _reading(self, script: Script) -> tuple[Any, ...]:
        """The script, its place, its sentence, an empty recorder, and what is kept."""
        return script, script.where, script.sentence, None, self._events.read_so_far(script)

    @_in_words
    def learn_script(
        self, name: str, anew: bool, script: Script, request: gr.Request, progress: gr.Progress = _PROGRESS
    ) -> str:
        """What came of reading."""
        return self._events.learn_script(_user(request), name, anew, script, _shown(progress))

    @_in_words
    def learn_files(
        self,
        name: str,
        anew: bool,
        files: list[str] | None,
        texts: str | None,
        request: gr.Request,
        progress: gr.Progress = _PROGRESS,
    ) -> str:
        """What came of the recordings that were brought."""
        return self._events.learn_uploads(_user(request), name, anew, files, texts, _shown(progress))

    def stop(self, request: gr.Request) -> None:
        """Stop this window's enrolment, and say so."""
        gr.Info(self._events.stop(_user(request)))
