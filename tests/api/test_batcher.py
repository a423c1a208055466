"""Pieces of many callers in one batch: words as alone, what nobody waits for is not computed, errors stay apart."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import pqm_plugin
from pqm_plugin.errors import PqmError
from pqm_plugin.models.options import SearchOptions
from pqm_plugin.personal.batcher import Batcher, GoneError
from pqm_plugin.personal.making import quantize
from tests.api.conftest import SEARCH
from tests.personal.conftest import noise

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def loaded(model):
    """The tiny model in memory."""
    return pqm_plugin.load(model)


@pytest.fixture
def batcher(loaded):
    """A batcher of it."""
    made = Batcher(loaded)
    yield made
    made.close()


def hear(loaded, batcher, seed, speaker=None, gone=None):
    search = batcher.searching(gone or threading.Event())
    return [segment.text for segment in loaded.hear(noise(seed, 16000 + 1600 * seed), speaker, search=search)]


def test_rows_with_adapters_and_without_share_batches_and_have_the_words_of_each_alone(loaded, batcher, model):
    asked = [(seed, speaker) for seed in range(6) for speaker in (None, "ada", "bob")]
    alone = pqm_plugin.load(model, search=SearchOptions(batch_size=1, **SEARCH))
    expected = [[part.text for part in alone.segments(noise(seed, 16000 + 1600 * seed), who)] for seed, who in asked]

    with loaded._alone, ThreadPoolExecutor(len(asked)) as pool:
        # Nothing is computed while the model is held: they all meet in the queue.
        waiting = [pool.submit(hear, loaded, batcher, seed, who) for seed, who in asked]
        while len(batcher._rows) + len(batcher._computing) < len(asked):
            time.sleep(0.01)
        loaded._alone.release()
        try:
            found = [each.result() for each in waiting]
        finally:
            loaded._alone.acquire()

    assert found == expected
    assert batcher.n_rows == len(asked) > 2 * batcher.n_batches


def test_what_nobody_waits_for_is_not_computed(loaded, batcher):
    gone = threading.Event()
    with ThreadPoolExecutor(8) as pool:
        with loaded._alone:
            first = pool.submit(hear, loaded, batcher, 0)
            while not batcher._computing:
                time.sleep(0.01)
            left = [pool.submit(hear, loaded, batcher, seed, "ada", gone) for seed in range(1, 5)]
            while len(batcher._rows) < 4:
                time.sleep(0.01)
            gone.set()
            batcher.wake()
            ended = [type(each.exception()) for each in left]

        assert first.result() == hear(loaded, batcher, 0)
    assert ended == [GoneError] * 4 and batcher.n_rows == 2


def test_a_damaged_adapter_is_its_callers_error_alone(loaded, batcher, tmp_path, model):
    import shutil

    copy = shutil.copytree(model, tmp_path / "model")
    damaged = pqm_plugin.load(copy)
    (copy / "speakers/bob/adapter_model.safetensors").write_bytes(b"no adapter")
    batcher = Batcher(damaged)
    with ThreadPoolExecutor(2) as pool:
        with damaged._alone:
            waiting = [pool.submit(hear, damaged, batcher, 1, who) for who in ("ada", "bob")]
            while len(batcher._rows) + len(batcher._computing) < 2:
                time.sleep(0.01)
        ada, bob = waiting

        assert ada.result() == hear(loaded, Batcher(loaded), 1, "ada")
        assert isinstance(bob.exception(), PqmError)
    batcher.close()


def test_a_batcher_that_is_closed_ends_what_waits(loaded):
    batcher = Batcher(loaded)
    batcher.close()

    with pytest.raises(GoneError):
        hear(loaded, batcher, 0)


def test_an_adapter_that_was_written_anew_is_read_anew(loaded, tmp_path, model):
    import shutil

    copy = shutil.copytree(model, tmp_path / "model")
    heard = pqm_plugin.load(copy)
    before = heard.transcribe(noise(0), "ada").segments[0].score
    other = loaded.transcribe(noise(0), "bob").segments[0].score

    shutil.copy(copy / "speakers/bob/adapter_model.safetensors", copy / "speakers/ada/adapter_model.safetensors")

    assert before != heard.transcribe(noise(0), "ada").segments[0].score == other


def test_callers_of_other_languages_share_no_batch_and_have_the_words_of_each_alone(tiny_multilingual, tmp_path):
    quantize(str(tiny_multilingual), tmp_path / "model")
    model = pqm_plugin.load(tmp_path / "model")
    asked = [(seed, language) for seed in range(4) for language in ("en", "de", "auto")]
    expected = [model.transcribe(noise(seed), language=language) for seed, language in asked]
    batcher = Batcher(model)

    def heard(one):
        hearing = model.hear(noise(one[0]), language=one[1], search=batcher.searching(threading.Event()))
        return [segment.text for segment in hearing], hearing.language

    with ThreadPoolExecutor(len(asked)) as pool:
        found = list(pool.map(heard, asked))
    batcher.close()

    assert [words for words, _ in found] == [[part.text for part in each.segments] for each in expected]
    assert [language for _, language in found] == ["en", "de", "de"] * 4
