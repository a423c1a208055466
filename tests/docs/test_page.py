"""What docs/page.md says of the page's options, limits and pictures is so."""

import re
import shlex
from pathlib import Path

from pqm_plugin.commands.__main__ import _parser
from pqm_plugin.page.guard import Limits
from pqm_plugin.page.script import SENTENCES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/page.md").read_text(encoding="utf-8")


def test_the_command_is_understood_and_links_and_pictures_lead_somewhere():
    [command] = re.findall(r"^(pqm .*)$", PAGE, flags=re.M)
    links = re.findall(r"\[[^]]+\]\(([^)]+)\)", PAGE)

    parsed = _parser().parse_args(shlex.split(command)[1:])

    assert parsed.command == "serve"
    assert len(links) >= 4
    for path in links:
        assert (ROOT / "docs" / path).is_file(), path


def test_the_pictures_are_small_enough_for_a_checkout():
    pictures = re.findall(r"\((images/\S+\.png)\)", PAGE)

    assert len(pictures) == 3
    assert all((ROOT / "docs" / path).stat().st_size < 150_000 for path in pictures)


def test_defaults_and_limits_are_those_of_the_program():
    parsed, limits = _parser().parse_args(["serve", "my_model"]), Limits()

    assert f"| `--host`, `--port` | {parsed.host}, {parsed.port} |" in PAGE
    assert f"| `--max_upload`, `--max_minutes` | {parsed.max_upload:g}, {parsed.max_minutes:g} |" in PAGE
    assert (limits.upload_bytes, limits.recording_s) == (parsed.max_upload * 10**6, 60 * parsed.max_minutes)
    assert (
        (limits.clip_s, limits.total_s) == (30, 1800) and "30 seconds of one" in PAGE and "half an hour of all" in PAGE
    )
    assert len(SENTENCES) == 20 and "English, twenty" in PAGE
