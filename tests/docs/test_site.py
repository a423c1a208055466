"""The pages make a site, lead to what is there, and say what is so."""

import importlib.metadata
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from pqm_plugin.files import read_json
from tests.docs.pages import BASE, CORPUS, DOCS, ROOT, commands, links, run

PAGES = sorted(path.name for path in DOCS.glob("*.md"))
CONFIG = """
lora: {rank: 1, alpha: 4, max_fraction: 0.05}
pretrain: {epochs: 1, learning_rate: 0.01, criterion: loss}
adapt: {epochs: 1, learning_rate: 0.01, criterion: loss}
decode: {beam_size: 2, ctc_weight: 0.5, max_length_ratio: 0.3}
"""


@pytest.mark.parametrize("name", PAGES)
def test_every_link_and_picture_of_a_page_is_there(name):
    missing = [str(path) for path in links(name) if not path.exists()]

    assert not missing


def test_every_page_can_be_reached_from_the_sites_menu_and_from_the_first_page():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    first = (DOCS / "index.md").read_text(encoding="utf-8")

    assert all(f"- {name}" in menu for name in PAGES)
    assert all(f"]({name})" in first for name in PAGES if name != "index.md")


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_asks_no_other_site_for_anything(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    html = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html"))
    assert not re.findall(r"<(?:script|img|iframe)[^>]*src=\"https?:[^\"]+", html)
    assert not re.findall(r"<link[^>]*stylesheet[^>]*href=\"https?:[^\"]+", html)
    assert (tmp_path / "site/tour.ipynb").is_file()


def test_every_dependency_is_on_the_page_of_licences_and_no_other():
    page = (DOCS / "licences.md").read_text(encoding="utf-8")
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    wanted = re.findall(r'"([A-Za-z0-9_-]+)(?:\[\w+\])?[><=!]=?\d', setup)
    tools = re.search(r'"test": \[(.*?)\]', setup, re.S)
    tests_only = set(re.findall(r'"([A-Za-z0-9_-]+)', tools[1])) if tools else set()

    listed = re.findall(r"^\| ([\w-]+) \|", page, re.M)[1:]

    assert sorted(listed) == sorted(set(wanted) - tests_only, key=str), set(wanted) ^ set(listed) ^ tests_only


def test_what_the_page_says_of_a_licence_is_what_the_package_says():
    page = (DOCS / "licences.md").read_text(encoding="utf-8")
    said = dict(re.findall(r"^\| ([\w-]+) \| ([^|]+) \|", page, re.M))

    for name, licence in said.items():
        try:
            metadata = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        expression = metadata.get("License-Expression")
        if expression and " AND " not in expression:
            assert licence.strip() == expression, name
    text = "".join(file.read_text() for file in importlib.metadata.files("kaldiio") if "LICENSE" in file.name)
    assert "EVALUATION" in text.splitlines()[0]


def test_the_picture_names_the_rooms_that_there_are():
    picture = (DOCS / "images/architecture.svg").read_text(encoding="utf-8")
    there = {path.parent.name for path in (ROOT / "pqm_plugin").glob("*/__init__.py")}

    assert set(re.findall(r">(\w+)/<", picture)) - {"egs"} == there


@pytest.fixture
def desk(make_corpus, tmp_path):
    """A checkout's recipes beside a small corpus: `egs` leads to the recipes, exp/ and data/ are the desk's."""
    texts = ["GO ON", "STOP NOW", "WHO IS IT", "A CAT", "NO", "THE DOG RAN"]
    readers = {"dev-clean": ("84", "1272"), "train-clean-5": ("7", "8", "9")}
    sets = {
        name: {f"{reader}-1-{place:04d}": text for reader in found for place, text in enumerate(texts)}
        for name, found in readers.items()
    }
    make_corpus(sets, n_samples=16000)
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    return tmp_path


def fitted(block, desk, base):
    """A block of a page with its paths led to what is at the desk."""
    # ESPnet takes ten seconds to start: a process and a system where the page's defaults are two processes and seven.
    systems = "--systems 'espnet full nf4+sat' --inference_nj 1"
    options = f"--python {sys.executable} --pqm_config tiny.yaml --datadir data --expdir exp {systems}"
    block = block.replace(BASE, str(base)).replace(CORPUS, str(desk / "corpus"))
    return re.sub(r"egs/(\w+)/run\.sh", rf"{ROOT}/egs/\1/run.sh {options}", block)


@pytest.mark.slow
def test_the_page_of_comparisons_leads_to_the_same_words_as_espnets(desk, tiny_conformer):
    said = [run(fitted(block, desk, tiny_conformer), desk) for block in commands("compare_with_espnet.md")]

    assert "SYSTEM SUMMARY PERCENTAGES by SPEAKER" in said[1]
    assert "exp/tiny_conformer_nf4/results_mine.json" in said[2]
    found = [read_json(desk / f"exp/tiny_conformer_nf4/results{tag}.json") for tag in ("", "_mine")]
    assert [each["meta"]["search"]["beam_size"] for each in found] == [2, 4]


@pytest.mark.slow
def test_the_page_of_porting_leads_to_a_recipe_that_runs(tmp_path):
    for name in ("egs", "pqm_plugin"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("exp", "data", "downloads"))
    for speaker in ("anna", "ben", "carl", "dora"):
        (tmp_path / "recordings" / speaker).mkdir(parents=True)
        for number in range(5):
            samples = np.random.default_rng(number).integers(-3000, 3000, 16000, dtype=np.int16)
            soundfile.write(tmp_path / "recordings" / speaker / f"{number}.wav", samples, 16000)
            (tmp_path / "recordings" / speaker / f"{number}.txt").write_text(f"go on {number}")
    [block] = commands("port_a_recipe.md")

    said = run(block.replace("run.sh ", f"run.sh --python {sys.executable} "), tmp_path)

    assert "every second speaker is a target (ben dora)" in said
    assert not (tmp_path / "egs/mycorpus").exists()
