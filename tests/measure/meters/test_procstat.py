from __future__ import annotations

from pathlib import Path

import pytest

from joulecast.estimator.base.errors import MeterError
from joulecast.measure.meters.procstat import parse_proc_stat, read_cpu_info, read_proc_stat

STAT = """cpu  100 20 30 400 50 6 7 8 0 0
cpu0 50 10 15 200 25 3 3 4 0 0
cpu1 50 10 15 200 25 3 4 4 0 0
intr 12345 0 9
ctxt 67890
btime 1795433768
processes 5703
procs_running 6
procs_blocked 0
"""


def test_the_fields_of_proc_stat():
    stat = parse_proc_stat(STAT)
    assert (stat.cpus, stat.context_switches, stat.interrupts, stat.running) == (2, 67890, 12345, 6)
    assert stat.times.busy == 100 + 20 + 30 + 6 + 7
    assert stat.times.steal == 8
    assert stat.times.total == 163 + 400 + 50 + 8


def test_an_old_kernel_knows_no_steal():
    assert parse_proc_stat(STAT.replace("50 6 7 8 0 0", "50 6 7")).times.steal == 0


@pytest.mark.parametrize("text", ["", "cpu  1 2\nintr 1\nctxt 1\nprocs_running 1\n", STAT.replace("ctxt", "x")])
def test_what_is_not_proc_stat_is_one_line(tmp_path: Path, text: str):
    (tmp_path / "stat").write_text(text)
    with pytest.raises(MeterError, match="CPU columns need Linux' /proc"):
        read_proc_stat(tmp_path)


def test_the_processor_by_its_own_account(tmp_path: Path):
    assert read_cpu_info(tmp_path).model == ""
    (tmp_path / "cpuinfo").write_text("vendor_id : GenuineIntel\nmodel name : i7-4770\nsiblings : 8\ncpu cores : 4\n")
    cpu = read_cpu_info(tmp_path)
    assert (cpu.model, cpu.vendor, cpu.threads_per_core) == ("i7-4770", "GenuineIntel", 2)
