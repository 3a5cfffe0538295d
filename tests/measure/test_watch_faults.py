"""`measure watch` as a real process on a real tree: faults of counters and disks, and signals."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from joulecast.measure.meters.replay import read_trace
from joulecast.measure.meters.testing import FakePowercap, FakeZone

pytestmark = [
    pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs Linux' /proc"),
    pytest.mark.usefixtures("uncounted"),
]

PROGRAM = "from joulecast.cli.main import run; from joulecast.cli.watch import watch; run(watch, 'measure watch')"
# Root reads everything: a child of root's loads its modules and then becomes nobody.
AS_NOBODY = (
    "import importlib, os; [importlib.import_module('joulecast.' + name) for name in ("
    "'measure.watch', 'measure.command', 'measure.meters.selection', 'estimator.cost.hardware', "
    "'estimator.cost.names', "
    "'cli.watch', 'cli.main')];"
    "os.environ['HOME'] = '/'; importlib.import_module('joulecast.estimator.cost.hardware').load_hardware();"
    "tables = importlib.import_module('joulecast.estimator.base.tables');"
    "[tables.read_table(name + '.csv') for name in ('cpus', 'instances', 'region_names', 'carbon_intensity')];"
    "importlib.import_module('joulecast.estimator.cost.names').near_names('a part of no table');"
    "os.getuid() or (os.setgroups([]), os.setgid(65534), os.setuid(65534));"
)
NOBODY = os.getuid() or 65534
WATTS = {"package-0": 40.0, "package-0/dram": 4.0}


@pytest.fixture
def sysfs() -> Iterator[Path]:
    """A folder that other users can enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="joulecast-sysfs-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def tree(sysfs: Path) -> FakePowercap:
    return FakePowercap(sysfs / "class/powercap", [FakeZone("package-0", (FakeZone("dram"),))])


def _arguments(sysfs: Path, *options: str, prelude: str = "") -> list[str]:
    return [sys.executable, "-c", prelude + PROGRAM, "--sysfs", str(sysfs), "--interval", "0.1", *options]


def _run(sysfs: Path, *options: str, prelude: str = "") -> subprocess.CompletedProcess[str]:
    arguments = _arguments(sysfs, *options, prelude=prelude)
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120)


class Session:
    """A watch whose lines are read one by one, so that a fault can occur between two of them."""

    def __init__(self, arguments: list[str]) -> None:
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []

    def until(self, wanted: Callable[[str], bool]) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if wanted(self.lines[-1]):
                return self.lines[-1]
        raise AssertionError(f"ended without it: {self.lines} {self.process.stderr.read()}")

    def end(self, number: int) -> str:
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=60)
        return output


def _row(label: str) -> Callable[[str], bool]:
    return lambda line: line.endswith(f"  {label}") and line[2] == ":"


def _energy_line(output: str) -> str:
    return next(line for line in output.splitlines() if line.startswith("Energy: "))


def test_denied_counters_say_what_was_tried_and_the_fix(tree: FakePowercap, sysfs: Path):
    for zone in tree.zones:
        tree.deny(zone)
    done = _run(sysfs, "--duration", "0.2", "--meter", "rapl", prelude=AS_NOBODY)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"intel-rapl:0/energy_uj: permission denied to uid {NOBODY}" in done.stderr
    assert "sudo chmod a+r /sys/class/powercap/intel-rapl*:*/energy_uj" in done.stderr
    assert 'RUN+="/bin/chmod a+r %S%p/energy_uj"' in done.stderr


def test_denied_counters_leave_the_cpu_columns_and_no_zero_watts(tree: FakePowercap, sysfs: Path):
    for zone in tree.zones:
        tree.deny(zone)
    done = _run(sysfs, "--duration", "0.4", prelude=AS_NOBODY)
    assert done.returncode == 0
    rows = [line for line in done.stdout.splitlines() if line[2:3] == ":"]
    assert rows
    assert all(line.split()[-1] in ("missing", "modelled") for line in rows)
    assert "permission denied" in done.stdout


def test_eio_in_the_middle_is_a_gap_of_the_whole_and_missing_in_its_rows(tree: FakePowercap, sysfs: Path):
    with tree.drive(lambda: WATTS):
        session = Session(_arguments(sysfs, "--meter", "rapl"))
        session.until(_row("measured"))
        tree.fail("package-0")
        session.until(_row("missing"))
        tree.restore("package-0")
        session.until(_row("measured"))
        output = session.end(signal.SIGINT)
    assert session.process.returncode == 0
    rows = [line for line in (*session.lines, *output.splitlines()) if line[2:3] == ":"]
    known_w = [float(line.split()[10]) for line in rows if line.endswith("measured")]
    whole = _energy_line(output).split()
    assert "measured" in _energy_line(output)
    assert float(whole[1]) > sum(known_w) * 0.1  # the energy of the gap is in the whole, not lost
    assert f"Watts are unknown in {len(rows) - len(known_w)} of {len(rows)} intervals" in output


def test_a_counter_that_is_removed_ends_missing(tree: FakePowercap, sysfs: Path):
    with tree.drive(lambda: WATTS):
        session = Session(_arguments(sysfs, "--meter", "rapl"))
        session.until(_row("measured"))
        tree.remove("package-0")
        session.until(_row("missing"))
        output = session.end(signal.SIGINT)
    assert _energy_line(output).startswith("Energy: unknown")
    assert "energy_uj vanished" in output


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_ends_the_csv_and_not_the_watch(tree: FakePowercap, sysfs: Path):
    done = _run(sysfs, "--duration", "0.3", "--csv", "/dev/full")
    assert done.returncode == 1
    assert "/dev/full: No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "Energy:" in done.stdout
    metered = _run(sysfs, "--csv", "/dev/full", "--", "sh", "-c", "exit 7")
    assert metered.returncode == 7
    assert "No space left on device" in metered.stderr


def test_sigint_without_a_command_ends_with_the_summary(tree: FakePowercap, sysfs: Path):
    with tree.drive(lambda: WATTS):
        session = Session(_arguments(sysfs))
        session.until(_row("measured"))
        output = session.end(signal.SIGINT)
    assert session.process.returncode == 0
    assert "Average" in output
    assert "= package + dram in" in _energy_line(output)


def test_sigterm_without_a_command_still_prints_the_summary(tree: FakePowercap, sysfs: Path):
    with tree.drive(lambda: WATTS):
        session = Session(_arguments(sysfs))
        session.until(_row("measured"))
        output = session.end(signal.SIGTERM)
    assert session.process.returncode == 128 + signal.SIGTERM
    assert "Average" in output


def test_sigint_goes_to_the_command_and_its_own_answer_comes_back(tree: FakePowercap, sysfs: Path):
    script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done"
    session = Session(_arguments(sysfs, "--", "sh", "-c", script))
    session.until(lambda line: line == "ready")
    session.process.send_signal(signal.SIGINT)
    output, errors = session.process.communicate(timeout=60)
    assert session.process.returncode == 9
    assert output.splitlines() == ["caught"]  # the command's output is its own
    assert "Summary:" in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_ended_by_a_signal_gives_128_plus_n(tree: FakePowercap, sysfs: Path, number: signal.Signals):
    done = _run(sysfs, "--", "sh", "-c", f"kill -{int(number)} $$")
    assert done.returncode == 128 + number
    assert "Summary:" in done.stderr


def test_sigterm_is_passed_on_to_the_command(tree: FakePowercap, sysfs: Path):
    session = Session(_arguments(sysfs, "--", "sh", "-c", "echo $$; exec sleep 600"))
    child = int(session.until(str.isdigit))
    session.process.send_signal(signal.SIGTERM)
    _, errors = session.process.communicate(timeout=60)
    assert session.process.returncode == 128 + signal.SIGTERM
    assert "Summary:" in errors
    assert not Path(f"/proc/{child}").exists()


def test_the_command_gets_ordinary_signals_and_its_options(tree: FakePowercap, sysfs: Path):
    code = "import signal, sys; print(sorted(signal.pthread_sigmask(0, [])), sys.argv[1:])"
    done = _run(sysfs, "--", sys.executable, "-c", code, "--interval", "5")
    assert done.returncode == 0
    assert done.stdout == "[] ['--interval', '5']\n"


@pytest.mark.parametrize(("command", "status"), [("/nowhere/at-all", 127), ("/etc/hostname", 126)])
def test_a_command_that_cannot_run_exits_as_in_a_shell(sysfs: Path, tree: FakePowercap, command: str, status: int):
    done = _run(sysfs, "--", command)
    assert done.returncode == status
    assert done.stderr.startswith(f"cannot run '{command}'")


def test_duration_and_command_exclude_each_other(sysfs: Path):
    assert _run(sysfs, "--duration", "1", "--", "true").returncode == 2


def test_csv_and_trace_hold_what_was_shown(tree: FakePowercap, sysfs: Path, tmp_path: Path):
    rows_path, trace_path = tmp_path / "rows.csv", tmp_path / "trace.csv"
    with tree.drive(lambda: WATTS):
        done = _run(sysfs, "--duration", "0.5", "--histogram", "--csv", str(rows_path), "--trace", str(trace_path))
    assert done.returncode == 0, done.stderr
    with rows_path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    shown = [line.split() for line in done.stdout.splitlines() if line[2:3] == ":"]
    assert [float(row["watts"]) for row in rows] == pytest.approx([float(cells[10]) for cells in shown], abs=0.006)
    assert {row["label"] for row in rows} == {"measured"}
    assert re.search(r"^ +Watts +Count$", done.stdout, re.MULTILINE)
    assert "\x1b" not in done.stdout
    energy_j = float(_energy_line(done.stdout).split()[1])
    last = read_trace(trace_path).points[-1]
    assert sum(uj or 0 for uj in last.energy_uj) == pytest.approx(energy_j * 1e6, abs=1000)


def test_a_reader_that_goes_away_ends_the_watch_quietly(tree: FakePowercap, sysfs: Path):
    with subprocess.Popen(_arguments(sysfs), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=60) == 128 + signal.SIGPIPE
        assert process.stderr is not None
        assert process.stderr.read() == ""
