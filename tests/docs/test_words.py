"""docs/words.md: its commands are understood, its list is one, and its table is that of the measurements."""

import re
import shlex
from pathlib import Path

from benchmarks.words import score, with_table, words_in
from pqm_plugin.commands.__main__ import _parser
from pqm_plugin.files import read_json
from pqm_plugin.words import parse_words

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/words.md").read_text(encoding="utf-8")


def test_every_command_of_the_page_is_understood_and_its_list_is_read():
    blocks = re.findall(r"^```\n(.*?)^```$", PAGE, flags=re.M | re.S)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("pqm ")]

    for line in commands:
        _parser().parse_args(shlex.split(line)[1:])
    assert len(commands) == 5
    assert parse_words(blocks[0].splitlines(), "the page").entries[2] == ("roentgenium", 2.0)


def test_the_table_of_the_page_is_that_of_the_stored_results():
    assert with_table(PAGE, read_json(ROOT / "benchmarks/words.json").values()) == PAGE


def test_errors_on_listed_words_and_on_others_are_counted_apart():
    found = score(["the nome king spoke"], ["the gnome king kaliko spoke"], frozenset({"nome", "kaliko"}))

    assert found == {"listed_words": 1, "listed_errors": 2, "other_words": 3, "other_errors": 0}
    assert words_in("'Tis O’Brien's 2 cats") == ["tis", "o'brien's", "cats"]
