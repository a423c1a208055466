"""Where a number comes from is told so that another run can be compared with it."""

from pathlib import Path

import pytest

from pqm_plugin.stages.common.provenance import circumstances

CORE = "processor\t: {}\nmodel name\t: A processor\nflags\t\t: fpu {}\n\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [("avx avx2", "A processor with AVX2,"), ("avx2 avx512f", "A processor with AVX-512,"), ("sse", "A processor,")],
)
def test_the_hardware_is_named_with_the_vectors_that_sums_are_rounded_by(monkeypatch, flags, said):
    cores = CORE.format(0, flags) + CORE.format(1, flags)
    monkeypatch.setattr(Path, "read_text", lambda path, **options: cores if str(path) == "/proc/cpuinfo" else "")

    assert circumstances("run.sh", 0, "1 thread")["hardware"].startswith(said)
