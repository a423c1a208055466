"""A record answers a request: the one question that everything asks which is not made twice."""

import ast
import json
import logging

import pytest

from pqm_plugin.records import answers, changed, is_done, request_hash
from tests.test_architecture import MODULES, ROOT


def test_a_request_is_the_same_after_it_was_written_and_read():
    request = {"targets": ("a", "b"), "seed": 0, "lora": {"rank": 4}}

    assert answers(json.loads(json.dumps(request)), request)
    assert request_hash(request) == request_hash(dict(reversed(request.items())))


@pytest.mark.parametrize(
    "earlier", [{}, None, [], {"seed": 0}, {"seed": 1, "rank": 4}, {"seed": 0, "rank": 4, "old": 1}]
)
def test_what_lacks_a_key_or_has_one_more_is_another_request(earlier):
    assert not answers(earlier, {"seed": 0, "rank": 4})


def test_what_was_found_on_the_way_is_set_aside_on_either_side():
    assert answers({"seed": 0, "took_s": 3.5}, {"seed": 0}, aside=("took_s",))
    assert answers({"seed": 0}, {"seed": 0, "took_s": 3.5}, aside=("took_s",))


def test_the_keys_that_changed_are_named_in_order():
    assert changed({"seed": 0, "rank": 4}, {"seed": 1, "rank": 4, "alpha": 8.0}) == ["alpha", "seed"]
    assert changed("no record", {"seed": 1}) == ["seed"]


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "doing it again"),
        ("[]", "doing it again"),
        ('{"request": {"seed": 1}}', "x: made with other settings (seed); doing it again"),
        ('{"request": {"seed": 0, "old": 1}}', "x: made with other settings (fewer keys); doing it again"),
    ],
)
def test_a_record_that_does_not_answer_says_why(tmp_path, caplog, text, said):
    caplog.set_level(logging.INFO)
    record = tmp_path / "meta.json"
    assert not is_done(record, {"seed": 0}, "x") and not caplog.text
    record.write_text(text)

    assert not is_done(record, {"seed": 0}, "x")
    assert said in caplog.text


def test_requests_are_compared_in_one_module_only():
    for path in [*MODULES, *(ROOT / "benchmarks").glob("*.py")]:
        # The index holds hashes of requests, so that thousands of adapters are known without being opened.
        if path.name not in ("records.py", "systems.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq | ast.NotEq):
                    assert "'request'" not in ast.dump(node), f"{path}, line {node.lineno}"
