"""What is borrowed from ESPnet is there when a model is opened, or the first name that is not is told."""

import pytest
from espnet2.bin.asr_inference import Speech2Text

from pqm_plugin.errors import PqmError
from pqm_plugin.models.espnet import library as espnet_library
from pqm_plugin.models.families import family_of
from pqm_plugin.models.options import SearchOptions


class Renamed:
    """A part of which some names are hidden."""

    def __init__(self, part, *hidden):
        self._part, self._hidden = part, hidden

    def __getattr__(self, name):
        if name in self._hidden:
            raise AttributeError(name)
        return getattr(self._part, name)


def no_normalize(made, monkeypatch):
    del made.asr_model.normalize


def no_features(made, monkeypatch):
    monkeypatch.delattr(type(made.asr_model), "_extract_feats")


def losses_of_more(made, monkeypatch):
    monkeypatch.setattr(type(made.asr_model), "_calc_ctc_loss", lambda self, a, b, c, d, e: None)


def no_text(made, monkeypatch):
    made.tokenizer = Renamed(made.tokenizer, "tokens2text")


def no_converter(made, monkeypatch):
    del made.converter


def positions_first(made, monkeypatch):
    attention = type(made.asr_model.encoder.encoders[0].self_attn)
    monkeypatch.setattr(attention, "forward", lambda self, pos_emb, query, key, value, mask: None)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (no_normalize, "ESPnetASRModel.normalize"),
        (no_features, "ESPnetASRModel._extract_feats of 2 arguments"),
        (losses_of_more, "ESPnetASRModel._calc_ctc_loss of 4 arguments"),
        (no_text, "Renamed.tokens2text of 1 arguments"),
        (no_converter, "Speech2Text.converter"),
        (positions_first, "RelPositionMultiHeadedAttention.forward of query, key, value, pos"),
    ],
)
def test_a_name_that_espnet_has_no_more_is_told_when_a_model_is_opened(tiny_conformer, monkeypatch, change, named):
    def changed(*arguments, **options):
        made = Speech2Text(*arguments, **options)
        change(made, monkeypatch)
        return made

    monkeypatch.setattr(espnet_library, "Speech2Text", changed)

    with pytest.raises(PqmError) as refused:
        family_of(tiny_conformer).load_skeleton(tiny_conformer, SearchOptions(), "cpu")

    assert f"this version of ESPnet has no {named}: " in str(refused.value)
