"""A desk with a model that only counts."""

from pathlib import Path

import pytest

from pqm_plugin.page.desk import Desk
from pqm_plugin.page.guard import Limits
from tests.page.fakes import FakeModel


@pytest.fixture
def fake(tmp_path: Path) -> FakeModel:
    """The model that counts."""
    (tmp_path / "model").mkdir()
    return FakeModel(tmp_path / "model")


@pytest.fixture
def desk(fake: FakeModel) -> Desk:
    """A desk of it, which takes four seconds to hear, two of each clip, and three of all."""
    return Desk(fake, Limits(recording_s=4.0, clip_s=2.0, total_s=3.0))  # type: ignore[arg-type]
