"""What a page says that its results do not: `report.yaml` beside them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from pqm_plugin.report.gains import Goal
from pqm_plugin.report.tables import together
from pqm_plugin.stages.config import as_instance, load_as

WORDS = "report.yaml"


@dataclass(frozen=True)
class Label:
    """A sentence beside every table and figure of the results files that `of` names; of all where it names none."""

    label: str = ""
    of: tuple[str, ...] = ()


@dataclass(frozen=True)
class Words:
    """Title, labels, goals (see `Goal`) and notes of a page; `notes` stand at its end.

    `study_of` is a commit, and says that not every cell of the study is of the settings of the results; without it, a
    study is whole.
    """

    title: str = ""
    labels: tuple[Label, ...] = ()
    goals: tuple[Goal, ...] = ()
    notes: tuple[str, ...] = ()
    study_of: str = ""

    def labels_of(self, *names: str) -> list[str]:
        """The labels of results files, by name, each once."""
        return together([one.label for one in self.labels if not one.of or name in one.of] for name in names)


def everywhere(labels: Iterable[str]) -> tuple[Label, ...]:
    """Labels that are said of every results file."""
    return tuple(Label(label) for label in labels)


def read_words(folder: Path) -> Words:
    """The words of a folder; none where it has no `report.yaml`.

    Raises:
        PqmError: for an unknown key, naming the nearest one, or a value of the wrong kind.
    """
    path = folder / WORDS
    if not path.is_file():
        return Words()
    raw = load_as(Words, path)
    labels = [Label(one) if isinstance(one, str) else as_instance(Label, one, f"{path}: labels") for one in raw.labels]
    goals = [as_instance(Goal, one, f"{path}: goals") for one in raw.goals]
    return replace(raw, labels=tuple(labels), goals=tuple(goals))
