"""Libraries are imported without work that nothing here uses, and are left as they were."""

import subprocess
import sys

import pytest
import torch
import typeguard

from pqm_plugin.imports import quick_imports


def test_decorators_leave_functions_alone_within_and_are_themselves_again_after():
    before = typeguard.typechecked, torch.compile

    def made(size: int) -> int:
        return size

    with pytest.raises(KeyError), quick_imports():
        assert typeguard.typechecked(made) is torch.compile(made) is made
        assert torch.compile(dynamic=False)(made) is made
        raise KeyError

    assert (typeguard.typechecked, torch.compile) == before


@pytest.mark.slow
def test_what_adapts_loads_no_compiler():
    program = "import sys, pqm_plugin.stages.adapt; sys.exit('torch._inductor.compile_fx' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
