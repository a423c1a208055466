"""The synthetic corpus of the demo recipe."""

import importlib
import itertools
import sys
from pathlib import Path

import pytest
import soundfile

from pqm_plugin.errors import PqmError

LOCAL = Path(__file__).resolve().parents[2] / "egs" / "demo" / "local"


@pytest.fixture(scope="module")
def local():
    """Import a program of the recipe by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(LOCAL))
        yield importlib.import_module
        for name in ("make_corpus", "espeak", "grammar"):
            sys.modules.pop(name, None)


@pytest.fixture
def espeak(local):
    pytest.importorskip(
        "espeakng_loader", reason="the demo's speech synthesiser is not installed: pip install '.[demo]'"
    )
    return local("espeak")


def test_the_grammar_has_a_few_hundred_words_of_letters_and_apostrophes(local):
    words = local("grammar").words()

    assert 250 <= len(words) <= 500
    assert all(word.replace("'", "").isalpha() and word.islower() for word in words)


def test_every_slot_of_the_grammar_has_a_rule_and_every_rule_is_reached(local):
    grammar = local("grammar")

    used = {
        slot for rule in grammar.RULES for side in grammar.alternatives(rule) for slot in grammar._SLOT.findall(side)
    }

    assert used | {"sentence"} == set(grammar.RULES)


def test_the_same_seed_gives_the_same_sentences(local):
    sentences = local("grammar").unique_sentences

    assert list(itertools.islice(sentences(3), 50)) == list(itertools.islice(sentences(3), 50))
    assert list(itertools.islice(sentences(3), 50)) != list(itertools.islice(sentences(4), 50))


def test_no_sentence_of_the_corpus_is_said_twice(local):
    said = [text for by in local("make_corpus").sentences_of(0).values() for texts in by.values() for text in texts]

    assert len(said) == len(set(said)) == 1920 + 72 + 60 + 384 + 480


def test_training_says_every_word_that_the_targets_say(local):
    sentences = local("make_corpus").sentences_of(0)
    words = {
        name: {word for texts in by.values() for text in texts for word in text.split()}
        for name, by in sentences.items()
    }

    assert words["unheard"] <= words["train"]
    assert words["heard"] <= words["train"]


def test_target_voices_are_heard_by_nobody_else(local):
    corpus = local("make_corpus")

    variants = [
        {voice.variant for voice in voices.values()}
        for voices in (corpus.TRAIN_VOICES, corpus.SAT_VOICES, corpus.TARGET_VOICES)
    ]

    assert [len(group) for group in variants] == [12, 8, 4]
    assert len(set().union(*variants)) == 24


def test_a_voice_says_a_sentence_with_the_same_bytes_in_any_order(espeak):
    voice, sentences = espeak.Voice("en-us", "f2", 50, 170, 50), ["open the gate", "turn left"]

    forth, back = (list(espeak.synthesize(voice, said)) for said in (sentences, sentences[::-1]))

    assert forth == back[::-1]
    assert all(len(samples) > espeak.SAMPLE_RATE for samples in forth)  # half a second of 16 bits


@pytest.mark.parametrize(("accent", "variant"), [("en-us", "nobody"), ("en-nowhere", "f2")])
def test_an_unknown_voice_is_an_error_that_names_it(espeak, accent, variant):
    with pytest.raises(PqmError, match="nobody|en-nowhere"):
        list(espeak.synthesize(espeak.Voice(accent, variant, 50, 170, 50), ["open the gate"]))


@pytest.mark.slow
def test_a_corpus_has_the_layout_of_librispeech_and_is_made_once(espeak, local, tmp_path, capsys):
    make_corpus = local("make_corpus").make_corpus

    make_corpus(tmp_path, 0, 1)
    make_corpus(tmp_path, 0, 1)

    chapter = tmp_path / "unheard" / "301" / "5"
    assert sorted(path.name for path in chapter.iterdir()) == ["301-5-0000.flac", "301-5.trans.txt"]
    assert soundfile.info(chapter / "301-5-0000.flac").samplerate == 16000
    utterance, text = (chapter / "301-5.trans.txt").read_text().strip().split(" ", 1)
    assert utterance == "301-5-0000"
    assert text.isupper()
    assert capsys.readouterr().out.count("already there") == 5
    with pytest.raises(PqmError, match="other options"):
        make_corpus(tmp_path, 1, 1)
