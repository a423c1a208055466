"""The page in gradio: its elements, and which handler answers which button."""

import functools
from collections.abc import Callable
from html import escape
from typing import Any

import gradio as gr

from pqm_plugin.corpus.names import AUDIO_ENDINGS
from pqm_plugin.errors import PqmError
from pqm_plugin.page.events import ANYONE, Events, Show
from pqm_plugin.page.script import Script

# gradio passes on what a handler's signature names as such; the instance itself is never used.
_PROGRESS = gr.Progress()


def _in_words[**P, R](handler: Callable[P, R]) -> Callable[P, R]:
    """Show a `PqmError` as what it says; it may quote a file name, and gradio takes it for HTML."""

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


TITLE = "A recogniser that knows its speaker"
_INTRO = f"# {TITLE}\nYour voice stays on this machine: recordings, words and what is learned are sent nowhere."
_READ = """Read the sentence aloud, or write another one and read that. A minute in all is a good beginning, ten are
better."""
_BRING = """Recordings of one or two sentences each. The words are in a `.txt` of the same name beside each, or in one
list of names and words; without either, the model learns from the words that it is sure of."""
# Some are heard at once, in the same batches, one teaches a voice; gradio tells the others their place in the queue.
_HEARD: dict[str, Any] = {"concurrency_id": "hear", "concurrency_limit": 8, "api_visibility": "private"}
_LEARNED: dict[str, Any] = {"concurrency_id": "learn", "concurrency_limit": 1, "api_visibility": "private"}
_AT_ONCE: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}


def build(events: Events, keep_uploads_s: int) -> gr.Blocks:
    """The page.

    Args:
        keep_uploads_s: seconds after which a file that the browser sent is deleted.
    """
    answers = Answers(events)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, keep_uploads_s)) as page:
        gr.Markdown(_INTRO)
        with gr.Tab("Hear"):
            speaker = _hear(answers)
        with gr.Tab("Teach a voice"):
            name, learnings = _teach(events, answers)
        with gr.Tab("Sizes"):
            sizes = gr.HTML(elem_id="sizes")
        page.load(answers.now, speaker, [speaker, sizes], **_AT_ONCE)
        for learning in learnings:
            learning.success(answers.now, name, [speaker, sizes], **_AT_ONCE)
    return page


def _hear(answers: Answers) -> gr.Dropdown:
    with gr.Row():
        speaker = gr.Dropdown([("Anyone", ANYONE)], value=ANYONE, label="Who speaks", elem_id="speaker")
        recording = _recorder("Record, or drop a file", "recording", ["microphone", "upload"])
    button = gr.Button("Write it down", variant="primary", elem_id="hear")
    heard = gr.HTML(elem_id="heard")
    button.click(answers.hear, [speaker, recording], heard, **_HEARD)
    return speaker


def _teach(events: Events, answers: Answers) -> tuple[gr.Textbox, list[Any]]:
    """Name, two ways to learn, and what came of it; gives the name, and the events that may make a new speaker."""
    with gr.Row():
        name = gr.Textbox(label="Name of the speaker", info="A-Z a-z 0-9 . _ -", max_length=100, elem_id="name")
        anew = gr.Checkbox(label="Learn anew a speaker who is enrolled already", elem_id="anew")
    with gr.Tab("Read aloud"):
        read, script, shown = _read(events, answers)
    with gr.Tab("Bring recordings"):
        gr.Markdown(_BRING)
        files = gr.File(
            label="Recordings", file_count="multiple", file_types=[*AUDIO_ENDINGS, ".txt"], elem_id="files", height=160
        )
        texts = gr.File(label="List of names and words (not needed)", elem_id="texts", height=110)
        bring = gr.Button("Learn this voice", variant="primary", elem_id="learn-files")
    stop = gr.Button("Stop learning", elem_id="stop")
    learned = gr.HTML(elem_id="learned")
    stop.click(answers.stop, None, None, **_AT_ONCE)
    from_script = read.click(answers.learn_script, [name, anew, script], learned, **_LEARNED)
    from_script.success(answers.fresh, None, [script, *shown], **_AT_ONCE)
    from_files = bring.click(answers.learn_files, [name, anew, files, texts], learned, **_LEARNED)
    from_files.success(lambda: (None, None), None, [files, texts], **_AT_ONCE)
    return name, [from_script, from_files]


def _read(events: Events, answers: Answers) -> tuple[gr.Button, gr.State, list[Any]]:
    """Sentences one by one; gives the button that learns, what is kept, and the places that show it."""
    script = gr.State(events.script())
    gr.Markdown(_READ)
    where = gr.Markdown(events.script().where, elem_id="where")
    sentence = gr.Textbox(events.script().sentence, label="Read this aloud", lines=2, elem_id="sentence")
    reading = _recorder("Your reading", "reading", ["microphone"])
    with gr.Row():
        keep = gr.Button("Keep it and go on", variant="primary", elem_id="keep")
        skip = gr.Button("Another sentence", elem_id="skip")
        back = gr.Button("Take the last one back", elem_id="back")
    kept = gr.HTML(events.read_so_far(events.script()), elem_id="kept")
    learn = gr.Button("Learn this voice", variant="primary", elem_id="learn-script")
    shown = [where, sentence, reading, kept]
    keep.click(answers.keep, [script, sentence, reading], [script, *shown], **_AT_ONCE)
    skip.click(answers.skip, script, [script, *shown], **_AT_ONCE)
    back.click(answers.take_back, script, [script, *shown], **_AT_ONCE)
    return learn, script, shown


def _recorder(label: str, name: str, sources: list[Any]) -> gr.Audio:
    options = gr.WaveformOptions(sample_rate=16000)
    return gr.Audio(
        sources=sources, type="filepath", label=label, elem_id=name, buttons=[], waveform_options=options, scale=2
    )
