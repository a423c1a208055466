"""What a process does with its memory."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, torch
from pqm_plugin.processes import freed_memory_returned

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

def block(mb):
    return torch.ones(mb * 2**18)

with freed_memory_returned(from_now_on=True):
    del_me = block(24)
    del del_me
blocks = [block(8) for _ in range(4)]
full = resident_mb()
del blocks[::2]
print(full - resident_mb())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_blocks_that_lie_between_others_go_back_when_they_are_freed():
    root = Path(__file__).resolve().parents[1]

    said = subprocess.run([sys.executable, "-c", PROGRAM], cwd=root, capture_output=True, text=True, check=True).stdout

    assert float(said) > 14
