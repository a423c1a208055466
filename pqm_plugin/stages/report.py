"""Stage 8: write the report pages and their figures from stored results and the words of `report.yaml` beside them."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pqm_plugin.errors import PqmError
from pqm_plugin.files import read_json, write_json, write_text
from pqm_plugin.report.figures import bytes_figure, speakers_figure
from pqm_plugin.report.gains import Goal
from pqm_plugin.report.mismatch import conditions_of, mismatch_figure
from pqm_plugin.report.page import Section, render_report
from pqm_plugin.report.study import minutes_figure, minutes_points, reference, settings_figure, settings_points
from pqm_plugin.report.tables import ordered, plain_label, systems_table, together
from pqm_plugin.report.viewer import Viewed, render_viewer
from pqm_plugin.settings import fill, read_yaml
from pqm_plugin.stages.common.viewing import example_lines, viewed_words
from pqm_plugin.stages.recipe import Recipe
from pqm_plugin.stages.score import results_files

WORDS = "report.yaml"


@dataclass(frozen=True)
class Label:
    """A sentence beside every table and figure of the results files that `of` names; of all where it names none."""

    label: str = ""
    of: tuple[str, ...] = ()

    @classmethod
    def from_text(cls, text: str) -> "Label":
        """A sentence beside all tables and figures."""
        return cls(text)


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
    return fill(Words, read_yaml(path, "title, labels, goals and notes of a page"), str(path))


def run(recipe: Recipe) -> None:
    """Write the page from every results file of the model; with `--report DIR`, from those in DIR, the model's added.

    So one page can show several bases: each is reported to DIR under a `--tag` of its own.
    """
    out = recipe.report or recipe.packed_dir
    ours = _in_order(recipe.packed_dir, "results")
    if out != recipe.packed_dir:
        copies = {path: out / path.name for path in [*ours, *_in_order(recipe.packed_dir, "study")]}
        copies |= {path: _place(path, out, recipe.tag) for path in recipe.packed_dir.glob("sensitivity.json")}
        for source, target in copies.items():
            write_json(target, read_json(source))
    report_folder(out, recipe.title or recipe.base_name, recipe.labels)
    for path in ours:
        found = read_json(path)
        print(f"\n{_heading(found)}\n\n{systems_table(found)}")
    print(f"{out / 'RESULTS.md'}")
    views = viewed(recipe, out)
    if views:
        print(f"{write_viewer(recipe, out, views)}: open it in a browser")
        systems = ordered(views[0].results["systems"])
        example = example_lines(views[0].utterances, systems, recipe.packed_dir, recipe.data(recipe.target_set))
        print("\n".join(["", *example]) if example else "", end="\n" if example else "")


def viewed(recipe: Recipe, figures_of: Path) -> list[Viewed]:
    """What `report.html` shows: the results of the recipe's decoding setting, the target set's first.

    Args:
        figures_of: the folder whose `figures/` were drawn of these results.
    """
    files = {name: path for name, path in results_files(recipe).items() if path.is_file()}
    words = read_words(figures_of)
    labels = words.labels or everywhere(recipe.labels)
    views = []
    for name, path in files.items():
        results, tag = read_json(path), path.stem.removeprefix("results")
        decoded = recipe.decoded(name, recipe.split if name == recipe.target_set else "test")
        shown, intervals, sound = viewed_words(recipe.packed_dir, decoded, recipe.data(name), results)
        figures = {
            "Word error rate against the size of base and adapter": figures_of / f"figures/wer_by_bytes{tag}.svg",
            "Word error rate against minutes of adaptation speech": figures_of / f"figures/minutes{tag}.svg",
        }
        own = replace(words, labels=labels).labels_of(path.name)
        views.append(Viewed(_heading(results), results, own, intervals, shown, sound, figures))
    return views


def write_viewer(recipe: Recipe, figures_of: Path, views: Sequence[Viewed]) -> Path:
    """Write `report.html` beside the results, see `viewed`."""
    words = read_words(figures_of)
    split = f"_{recipe.split}" if recipe.split != "test" else ""
    out = recipe.packed_dir / f"report{split}{f'_{recipe.tag}' if recipe.tag else ''}.html"
    write_text(out, render_viewer(words.title or recipe.title or recipe.base_name, views))
    return out


def _place(sensitivity: Path, out: Path, tag: str) -> Path:
    """Where it goes: with a tag in its name if `out` has another base's; all conditions of one base have the same."""
    place = out / sensitivity.name
    if tag and place.is_file() and read_json(place)["base"] != read_json(sensitivity)["base"]:
        return out / f"{sensitivity.stem}_{tag}.json"
    return place


def report_folder(folder: Path, title: str = "Results", labels: Sequence[str] = ()) -> None:
    """Write the page and the figures of a folder from the results, studies and sensitivities that it holds.

    Args:
        title, labels: where the folder's `report.yaml` has none.

    Raises:
        PqmError: as `write_report`, and if `report.yaml` cannot be read.
    """
    words = read_words(folder)
    words = replace(words, title=words.title or title, labels=words.labels or everywhere(labels))
    results: dict[str, Path] = {}
    for path in _in_order(folder, "results"):
        heading = _heading(read_json(path))
        results[f"{heading} ({path.stem})" if heading in results else heading] = path
    costs = [read_json(path) for path in _in_order(folder, "sensitivity")]
    sensitivity = {record["base"]: record for record in costs}
    write_report(results, folder / "RESULTS.md", folder / "figures", words, sensitivity)


def _in_order(folder: Path, kind: str) -> list[Path]:
    """Files `<kind>.json` and `<kind>_*.json`, the one without a tag first."""
    return sorted(folder.glob(f"{kind}*.json"), key=lambda path: (path.stem != kind, path.stem))


def _heading(results: Mapping[str, Any]) -> str:
    meta = results["meta"]
    return f"{meta['set']}: {meta['family']}, {meta['decoding']}"


def write_report(
    results: Mapping[str, Path],
    out: Path,
    figures_dir: Path,
    words: Words,
    sensitivity: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write `out` (RESULTS.md), two figures for each results file and one over them; the same input, the same bytes.

    Args:
        results: results file by the heading of its section, in the order of the page; "" is headed "Results".
        sensitivity: the record of the stage of that name, by base.

    Raises:
        PqmError: if a results file is missing or holds no system, or matplotlib is not installed.
    """
    if not results:
        raise PqmError(f"{out}: there are no results to report; run stage 7 (score) first")
    if len({path.stem for path in results.values()}) < len(results):
        raise PqmError(f"{out}: two results files have one name, so their figures would too; rename one of them")
    sections = [_section(heading, path, out.parent, figures_dir, words) for heading, path in results.items()]
    mismatch = _mismatch(sections, out.parent, figures_dir)
    write_text(out, render_report(words.title, sections, words.notes, sensitivity, words.goals, mismatch))


def _section(heading: str, path: Path, page_folder: Path, figures_dir: Path, words: Words) -> Section:
    results, labels = read_json(path), words.labels_of(path.name)
    if not isinstance(results, dict) or not results.get("systems") or "meta" not in results:
        raise PqmError(f"{path} holds no systems: run stage 7 (score) again")
    tag = path.stem.removeprefix("results")
    figures = [figures_dir / f"{name}{tag}.svg" for name in ("wer_by_speaker", "wer_by_bytes")]
    speakers_figure(results, figures[0], plain_label(labels))
    bytes_figure(results, figures[1], plain_label(labels))
    links = [_link(target, page_folder) for target in (path, *figures)]
    study, drawn = _study(results, path.with_name(f"study{tag}.json"), figures_dir, plain_label(labels))
    study_links = {name: _link(target, page_folder) for name, target in drawn.items()}
    heading = heading or "Results"
    return Section(heading, links[0], results, links[1], links[2], labels, study, study_links, words.study_of)


def _mismatch(sections: Sequence[Section], page_folder: Path, figures_dir: Path) -> dict[str, list[Section]]:
    """The sections of each base that was measured under several conditions, by the figure that is drawn of them."""
    named = {section.heading: section for section in sections}
    groups = conditions_of({heading: section.results for heading, section in named.items()})
    found = {}
    for group in groups:
        base = next(iter(group.values()))["meta"]["base"]
        path = figures_dir / ("mismatch.svg" if len(groups) == 1 else f"mismatch_{base}.svg")
        found[_link(path, page_folder)] = [named[heading] for heading in group]
        mismatch_figure(group, path, plain_label(together(named[heading].labels for heading in group)))
    return found


def _study(
    results: Mapping[str, Any], path: Path, figures_dir: Path, label: str
) -> tuple[Mapping[str, Any], dict[str, Path]]:
    """The study over the same condition, if there is one, and the figures that it has, drawn."""
    if not path.is_file():
        return {}, {}
    study = read_json(path)
    own = reference(study, results)
    drawn = {name: figures_dir / f"{name}{path.stem.removeprefix('study')}.svg" for name in ("minutes", "settings")}
    if len(minutes_points(study, own)) > 1:
        minutes_figure(own, study, drawn["minutes"], label)
    else:
        del drawn["minutes"]
    if settings_points(study):
        settings_figure(own, study, drawn["settings"], label)
    else:
        del drawn["settings"]
    return study, drawn


def _link(target: Path, folder: Path) -> str:
    return Path(os.path.relpath(target.resolve(), folder.resolve())).as_posix()
