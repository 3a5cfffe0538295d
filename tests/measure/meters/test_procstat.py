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
    assert stat.times.total == 163 + 400 + 50 + 8 == 621


def test_the_first_figure_of_a_row_counts_whatever_follows():
    text = STAT.replace("ctxt 67890", "ctxt 67890 1").replace("procs_running 6", "procs_running 6 2")
    stat = parse_proc_stat(text)
    assert (stat.context_switches, stat.interrupts, stat.running) == (67890, 12345, 6)


@pytest.mark.parametrize("figures", [4, 5, 6, 7])
def test_an_old_kernel_has_fewer_columns_and_the_rest_are_zero(figures: int):
    values = [100, 20, 30, 400, 50, 6, 7, 8]
    shown = " ".join(map(str, values[:figures]))
    times = parse_proc_stat(STAT.replace("100 20 30 400 50 6 7 8 0 0", shown)).times
    found = [times.user, times.nice, times.system, times.idle, times.iowait, times.irq, times.softirq, times.steal]
    assert found == values[:figures] + [0] * (8 - figures)


@pytest.mark.parametrize("text", ["", "cpu  1 2 3\nintr 1\nctxt 1\nprocs_running 1\n", STAT.replace("ctxt", "x")])
def test_what_is_not_proc_stat_is_one_line(tmp_path: Path, text: str):
    (tmp_path / "stat").write_text(text)
    with pytest.raises(MeterError, match="CPU columns need Linux' /proc"):
        read_proc_stat(tmp_path)


def test_the_processor_by_its_own_account(tmp_path: Path):
    assert read_cpu_info(tmp_path).model == ""
    (tmp_path / "cpuinfo").write_text("vendor_id : GenuineIntel\nmodel name : i7-4770\nsiblings : 8\ncpu cores : 4\n")
    cpu = read_cpu_info(tmp_path)
    assert (cpu.model, cpu.vendor, cpu.threads_per_core) == ("i7-4770", "GenuineIntel", 2)


@pytest.mark.parametrize(
    ("siblings", "cores", "threads"),
    [(16, 8, 2), (12, 12, 1), (24, 16, 1), (6, 12, 1), (4, 0, 4), (0, 4, 1), (12, 3, 4)],
)
def test_threads_per_core_is_a_whole_number_from_one_up(tmp_path: Path, siblings: int, cores: int, threads: int):
    (tmp_path / "cpuinfo").write_text(f"siblings : {siblings}\ncpu cores : {cores}\n")
    found = read_cpu_info(tmp_path).threads_per_core
    assert found == threads
    assert isinstance(found, int)


def test_threads_per_core_is_one_if_the_file_does_not_say(tmp_path: Path):
    assert read_cpu_info(tmp_path).threads_per_core == 1
    (tmp_path / "cpuinfo").write_text("siblings : 3\n")
    assert read_cpu_info(tmp_path).threads_per_core == 3
    (tmp_path / "cpuinfo").write_text("cpu cores : 2\n")
    assert read_cpu_info(tmp_path).threads_per_core == 1
