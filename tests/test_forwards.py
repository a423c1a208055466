"""A module's forward is replaced in one place, marked, and as it was afterwards."""

import ast

import pytest
import torch
from torch import nn

from pqm_plugin.forwards import is_replaced, replace_forward, replaced_forwards
from tests.test_architecture import MODULES

X = torch.ones(1, 2)


def test_within_it_a_module_computes_otherwise_and_then_as_before_whatever_happens():
    layer = nn.Linear(2, 2)
    before, names = layer(X), list(layer.state_dict())

    with pytest.raises(RuntimeError), replaced_forwards([(layer, lambda x: 2 * x)]):
        assert torch.equal(layer(X), 2 * X) and is_replaced(layer)
        with replaced_forwards([(layer, None)]):
            assert torch.equal(layer(X), before) and not is_replaced(layer)
        assert torch.equal(layer(X), 2 * X) and is_replaced(layer)
        raise RuntimeError

    assert torch.equal(layer(X), before) and not is_replaced(layer) and list(layer.state_dict()) == names


def test_a_forward_that_another_library_hid_comes_back_without_our_mark():
    layer = nn.Linear(2, 2)
    layer.forward = lambda x: 3 * x

    with replaced_forwards([(layer, lambda x: 2 * x)]):
        assert is_replaced(layer)

    assert torch.equal(layer(X), 3 * X) and not is_replaced(layer)
    replace_forward(layer, None)
    assert "forward" not in vars(layer)


def test_no_other_module_hides_a_forward_or_looks_for_one():
    for path in MODULES:
        source = path.read_text(encoding="utf-8")
        if path.name != "forwards.py" and "vars(" in source:
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.Subscript | ast.Compare | ast.Call):
                    text = ast.unparse(node)
                    assert not ("vars(" in text and "forward" in text and len(text) < 80), f"{path}: {text}"
