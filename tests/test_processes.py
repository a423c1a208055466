"""What a process does with its memory."""

import contextlib
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

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


SERVED = """
import sys, time
from multiprocessing import forkserver
from pqm_plugin import processes
processes.expect_workers(["imported_for_a_minute"])
print(forkserver._forkserver._forkserver_pid)
time.sleep(float(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
@pytest.mark.parametrize("lasts_s", [0, 3], ids=["which ends at once", "which ends later"])
def test_the_server_of_workers_does_not_import_on_for_a_recipe(tmp_path, lasts_s):
    (tmp_path / "imported_for_a_minute.py").write_text("import time\ntime.sleep(60)\n")
    command = [sys.executable, "-c", SERVED, str(lasts_s)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}

    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)

    with contextlib.suppress(ProcessLookupError):  # it has ended already
        assert select.select([os.pidfd_open(int(found.stdout))], [], [], 30)[0]
