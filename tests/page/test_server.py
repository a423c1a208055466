"""What keeps the page from being served is one line; there is no way to share it."""

import socket
import sys

import pytest

from pqm_plugin.commands.__main__ import _parser, main
from tests.page.fakes import FakeModel


@pytest.fixture
def model(tmp_path):
    """A folder that looks like a model's, and is not loaded."""
    (tmp_path / "model").mkdir()
    return str(FakeModel(tmp_path / "model").folder.path)


def test_without_gradio_it_is_said_what_to_install(model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)

    assert main(["serve", model, "--port", "0"]) == 1

    said = capsys.readouterr().err
    assert "pip install 'pqm_plugin[serve]'" in said and said.startswith("pqm serve: ") and said.count("\n") == 1


def test_a_port_that_is_taken_and_an_address_that_is_not_ours_are_named(model, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        calls = [["--port", port], ["--host", "192.0.2.1"], ["--port", "70000"]]

        codes = [main(["serve", model, *call]) for call in calls]

    said = capsys.readouterr().err.splitlines()
    assert codes == [1, 1, 1] and len(said) == 3
    assert f"127.0.0.1:{port}: " in said[0] and "192.0.2.1:7860: " in said[1]
    assert all("choose another --host or --port" in line for line in said)


@pytest.mark.parametrize(
    ("options", "why"), [(["--max_upload", "0"], "above 0"), (["--sentences", "ghost.txt"], "ghost.txt cannot be read")]
)
def test_options_that_make_no_sense_are_said_before_anything_is_opened(options, why, model, capsys):
    assert main(["serve", model, *options]) == 1

    assert why in capsys.readouterr().err


def test_it_listens_on_the_loopback_address_and_cannot_be_shared():
    assert _parser().parse_args(["serve", "my_model"]).host == "127.0.0.1"
    with pytest.raises(SystemExit):
        _parser().parse_args(["serve", "my_model", "--share"])
