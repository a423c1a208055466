"""A speaker who is forgotten."""

import pytest

from pqm_plugin.errors import PqmError
from pqm_plugin.files import exclusive
from pqm_plugin.personal.enrollment import forget
from tests.page.fakes import FakeModel, write_adapter


@pytest.fixture
def folder(tmp_path):
    """The folder of a model that knows ada and ada.b, with what is left of enrolments that were cut off."""
    (tmp_path / "model").mkdir()
    made = FakeModel(tmp_path / "model").folder
    for name in ("ada", "ada.b"):
        write_adapter(made.speaker(name), name)
        (made.path / f"speakers/.{name}.{'0' * 12}.train").write_text("state")
    (made.path / "speakers/index.tsv").write_text("ada\n")
    return made


def test_a_speaker_is_forgotten_with_what_was_left_to_go_on_from_and_others_stay(folder):
    forget(folder, "ada")

    left = sorted(path.name for path in (folder.path / "speakers").iterdir())
    assert left == [f".ada.b.{'0' * 12}.train", ".ada.lock", "ada.b"]


def test_whoever_is_being_enrolled_or_is_unknown_is_not_forgotten(folder):
    with exclusive(folder.path / "speakers/.ada.lock"), pytest.raises(PqmError, match="is at work on it"):
        forget(folder, "ada")
    with pytest.raises(PqmError, match="nearest: ada"):
        forget(folder, "adda")
    with pytest.raises(PqmError, match="cannot be a folder name"):
        forget(folder, "../ada")

    assert folder.speakers() == ["ada", "ada.b"]
