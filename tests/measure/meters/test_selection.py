from __future__ import annotations

import os
from pathlib import Path

import pytest

from joulecast.estimator.base.errors import MeterError
from joulecast.measure.meters.meter import SampledMeter
from joulecast.measure.meters.modelled import ModelledSource, utilisation_model
from joulecast.measure.meters.rapl import RaplSource
from joulecast.measure.meters.selection import PREFERENCES, Attempt, JoinedSource, _chosen, _failures, select_meter
from joulecast.measure.meters.tally import Domain, Failure, Mirror, Sample
from joulecast.measure.meters.testing import FakeGpu, FakeNvml, FakePowercap, FakeZone, ManualClock

STAT = """cpu  {busy} 0 0 {idle} 0 0 0 0 0 0
cpu0 1 0 0 1 0 0 0 0 0 0
cpu1 1 0 0 1 0 0 0 0 0 0
intr 5 0
ctxt 7
procs_running 1
"""


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host with two threads of one core of an EPYC 7763, and without a counter."""
    (tmp_path / "proc").mkdir()
    cpuinfo = (
        "vendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 7763 64-Core Processor\nsiblings\t: 2\ncpu cores\t: 1\n"
    )
    (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
    (tmp_path / "proc/stat").write_text(STAT.format(busy=0, idle=0))
    return tmp_path


def _select(host: Path, preference: str = "auto", **options):
    pynvml = options.pop("pynvml", FakeNvml([], driver=False))
    options = {"environ": {}, "interval_s": None, **options}
    return select_meter(preference, sysfs=host / "sys", procfs=host / "proc", pynvml=pynvml, **options)


def test_auto_takes_the_counters_of_cpu_and_gpu(host: Path):
    tree = FakePowercap(host / "sys/class/powercap", [FakeZone("package-0", range_uj=10**11)])
    nvml = FakeNvml([FakeGpu(watts=300)])
    meter = _select(host, pynvml=nvml)
    assert meter.name == "rapl+nvml"
    assert meter.reads_all
    assert [(attempt.meter, attempt.works) for attempt in meter.attempts] == [("rapl", True), ("nvml", True)]
    with meter.window() as window:
        tree.advance(0.001, {"package-0": 1000.0})
        nvml.advance(0.01)
    assert (window.reading.cpu_energy_uj, window.reading.gpu_energy_uj) == (1_000_000, 3_000_000)
    assert window.reading.boundary == "package + gpu"


A100, T4 = FakeGpu("NVIDIA A100", "GPU-a"), FakeGpu("NVIDIA T4", "GPU-b")
MIG_ON = FakeGpu(uuid="GPU-c", mig=True)


@pytest.mark.parametrize(
    ("nvml", "visible", "reason"),
    [
        (FakeNvml([MIG_ON]), None, "MIG is on"),
        (FakeNvml([MIG_ON, T4]), None, "MIG is on"),
        (FakeNvml([A100]), "MIG-123", "names the MIG instance MIG-123"),
        (FakeNvml([A100, T4]), "0", "set CUDA_DEVICE_ORDER=PCI_BUS_ID"),
        (FakeNvml([FakeGpu(has_counter=False, has_power=False)]), None, "gpu-0: NVML: Not Supported"),
        (FakeNvml([A100], matching=False), None, "Driver/library version mismatch; check that nvidia-smi"),
    ],
)
def test_gpus_that_cannot_be_read_make_the_total_missing_and_say_so(
    host: Path, nvml: FakeNvml, visible: str | None, reason: str
):
    tree = FakePowercap(host / "sys/class/powercap", [FakeZone("package-0", range_uj=10**11)])
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    meter = _select(host, pynvml=nvml, environ=environ)
    assert meter.name == "rapl+nvml"
    note = meter.notes[0]
    assert note.startswith("nvml: ")
    assert reason in note
    assert note.endswith("; `meter` rapl measures the CPU alone")
    with meter.window() as window:
        tree.advance(0.001, {"package-0": 1000.0})
        nvml.advance(0.1)
    assert (window.reading.label, window.reading.energy_uj) == ("missing", None)
    assert window.reading.cpu_energy_uj == 1_000_000
    assert any(reason in line for line in window.reading.reasons)
    meter.close()
    assert nvml.open_count == 0


@pytest.mark.parametrize(
    ("nvml", "visible"), [(FakeNvml([], driver=False), None), (FakeNvml([]), None), (FakeNvml([A100]), "")]
)
def test_where_no_gpu_is_at_work_nothing_is_said_of_gpus(host: Path, nvml: FakeNvml, visible: str | None):
    tree = FakePowercap(host / "sys/class/powercap", [FakeZone("package-0", range_uj=10**11)])
    meter = _select(host, pynvml=nvml, environ={} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    assert (meter.name, meter.notes) == ("rapl", ())
    with meter.window() as window:
        tree.advance(0.001, {"package-0": 1000.0})
    assert window.reading.energy_uj == 1_000_000


def test_a_model_beside_gpus_that_cannot_be_read_says_so(host: Path):
    nvml = FakeNvml([MIG_ON])
    meter = _select(host, pynvml=nvml)
    assert meter.name == "modelled"
    assert "MIG is on" in "\n".join(meter.notes)
    assert nvml.open_count == 0


def test_gpus_of_which_some_read_say_so_without_a_cpu_counter_too(host: Path):
    meter = _select(host, pynvml=FakeNvml([MIG_ON, T4]))
    assert meter.name == "nvml"
    assert "MIG is on" in "\n".join(meter.notes)
    assert [note.partition(":")[0] for note in meter.notes] == ["rapl", "perf_event", "nvml"]


def test_auto_models_only_where_nothing_measures_and_says_so(host: Path):
    meter = _select(host)
    assert meter.name == "modelled"
    assert [domain.label for domain in meter.domains] == ["modelled"]
    assert [attempt.meter for attempt in meter.attempts] == ["rapl", "perf_event", "nvml", "modelled"]
    assert [attempt.works for attempt in meter.attempts] == [False, False, False, True]
    text = "\n".join(meter.notes)
    assert "no intel-rapl zone" in text
    assert "EPYC 7763 (280 W, idle assumed 15% of it), 1 of its 64 cores assumed to draw their share" in text


def test_unknown_cpu_is_missing_never_a_guess(host: Path):
    (host / "proc/cpuinfo").write_text("model name\t: Mystery 9000\n")
    meter = _select(host)
    assert meter.name == "none"
    with meter.window() as window:
        pass
    assert (window.reading.label, window.reading.energy_uj) == ("missing", None)
    (said,) = [note for note in meter.notes if "Mystery 9000" in note]
    assert said.startswith("modelled: no power is known for the CPU 'Mystery 9000'; give a CPU of similar power")
    assert "`measure`" not in said, "the reader runs it already"


def test_a_tree_that_reads_in_part_beats_a_model(host: Path):
    tree = FakePowercap(host / "sys/class/powercap", [FakeZone("package-0", (FakeZone("dram"),))])
    tree.fail("package-0/dram")
    meter = _select(host)
    assert meter.name == "rapl"
    assert "Input/output error" in "\n".join(meter.notes)
    assert not any(note.endswith("alone") for note in meter.notes)  # which is for GPUs
    assert meter.attempts[0].works is False
    assert not meter.reads_all


def test_counters_that_stand_at_zero_are_no_counters(host: Path):
    FakePowercap(host / "sys/class/powercap", [FakeZone("package-0", start_uj=0)])
    meter = _select(host)
    assert meter.name == "modelled"
    assert "package-0: the counter stays at 0" in meter.attempts[0].reason
    with pytest.raises(MeterError, match="stays at 0"):
        _select(host, "rapl")


def test_psys_alone_is_no_cpu_meter(host: Path):
    FakePowercap(host / "sys/class/powercap", [FakeZone("psys")])
    assert _select(host).name == "modelled"
    with pytest.raises(MeterError, match="no package zone, only psys"):
        _select(host, "rapl")


def test_a_trace_that_begins_standing_still_is_played(host: Path):
    path = host / "trace.csv"
    path.write_text("seconds,watts,package-0_uj\n0,,0\n10,,0\n11,,30000000\n")
    meter = _select(host, f"replay:{path}")
    assert [(attempt.works, attempt.reason) for attempt in meter.attempts] == [(True, "")]


@pytest.mark.parametrize("preference", ["rapl", "perf_event", "nvml"])
def test_a_wanted_meter_that_does_not_read_is_an_error(host: Path, preference: str):
    with pytest.raises(MeterError) as caught:
        _select(host, preference)
    assert "\n" not in str(caught.value)


def test_an_unknown_meter_lists_those_there_are(host: Path):
    with pytest.raises(MeterError, match="meter is 'raple'; choose one of " + ", ".join(PREFERENCES)):
        _select(host, "raple")


def test_modelled_energy_follows_utilisation(host: Path):
    clock = ManualClock()
    clock.advance(5.0)
    source = ModelledSource("epyc-7763", procfs=host / "proc", clock=clock)
    assert source.sample().values == (0,)  # energy since the start
    with SampledMeter(source, interval_s=None).window() as window:
        clock.advance(10.0)
        (host / "proc/stat").write_text(STAT.format(busy=1000, idle=1000))  # 10 of 20 CPU seconds
    full_w, idle_w = 280 / 64, 0.15 * 280 / 64
    assert window.reading.energy_j == pytest.approx(10 * (idle_w + (full_w - idle_w) / 2), abs=1e-5)
    domain = window.reading.domains[0]
    assert (domain.label, domain.method) == ("modelled", "utilisation model")
    assert "assumed" in domain.reason
    assert source.domains[0].ceiling_w == 4 * 4 + 4  # four times 4.375 W in whole watts, and some


def test_the_ceiling_of_a_whole_part_is_four_times_its_power(host: Path):
    source = ModelledSource("i7-4770", procfs=host / "proc", clock=ManualClock())
    full_w = int(source._model.full_w)
    assert full_w > 10
    assert source.domains[0].ceiling_w == 4 * full_w + 4


def test_every_assumption_of_the_model_is_stated():
    assert utilisation_model("X", 100.0, 20.0, 8, 8).basis == "CPU utilisation x X (100 W, idle 20 W)"
    assumed = utilisation_model("X", 100.0, None, 8, 2)
    assert assumed.basis == (
        "CPU utilisation x X (100 W, idle assumed 15% of it), 2 of its 8 cores assumed to draw their share"
    )
    assert (assumed.idle_w, assumed.full_w) == (3.75, 25.0)


def test_a_gpu_is_no_cpu_model(host: Path):
    with pytest.raises(MeterError, match="is a gpu"):
        ModelledSource("gtx-1080-ti", procfs=host / "proc")


def test_joined_sources_keep_their_mirrors_apart(tmp_path: Path):
    """The second source's domains come after the first's: its dies 0 and 1 are domains 2 and 3."""
    dies = [
        FakeZone("package-0-die-0", range_uj=10**11),
        FakeZone("package-0-die-1", shows="package-0-die-0", range_uj=10**11),
    ]
    sources = [RaplSource(FakePowercap(tmp_path / name, dies).root) for name in ("a", "b")]
    joined = JoinedSource(sources)
    joined.sample()
    assert joined.mirrors() == {1: Mirror(0, True), 3: Mirror(2, True)}


@pytest.mark.parametrize(
    ("whole", "partial", "unread", "chosen"),
    [
        ("", "", "", ""),
        ("rapl", "perf_event", "", "rapl"),
        ("perf_event", "rapl", "", "perf_event"),  # complete before partial, and never both
        ("", "rapl perf_event", "nvml", "rapl nvml"),
        ("nvml", "rapl", "", "rapl nvml"),
        ("rapl nvml", "", "", "rapl nvml"),
        ("rapl nvml", "", "nvml", "rapl nvml"),
        ("", "nvml", "", "nvml"),
        ("", "", "nvml", ""),  # a GPU that cannot be read needs a CPU's counter as well
    ],
)
def test_one_source_for_the_cpu_and_one_for_gpus(whole: str, partial: str, unread: str, chosen: str):
    groups = [{name: name for name in group.split()} for group in (whole, partial, unread)]
    assert _chosen(*groups) == chosen.split()


class _Counter:
    """Two domains, of which the second is not counted, with the given values one after the other."""

    def __init__(self, *values: int) -> None:
        self.domains = (Domain("package-0", "package", True, 100), Domain("core", "core", False, 100))
        self.reads = list(values)

    def sample(self) -> Sample:
        return Sample(0, 0, 0, (self.reads.pop(0), 0))


def test_a_counter_that_starts_at_zero_is_read_again(monkeypatch: pytest.MonkeyPatch):
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    moving, running, stuck = _Counter(0, 5), _Counter(5), _Counter(0, 0)
    assert _failures(moving) == _failures(running) == ()
    assert _failures(stuck) == ("package-0: the counter stays at 0 (a virtual machine?)",)
    assert (moving.reads, running.reads, stuck.reads) == ([], [], [])
    assert waits == [0.05, 0.05]


class _Timed:
    """A source of three domains that is read at given times and has given mirrors."""

    notes = ()

    def __init__(self, name: str, began_ns: int, slept_ns: int, mirrors: dict[int, Mirror]) -> None:
        self.name, self._sample, self._mirrors = name, Sample(began_ns, began_ns + 5, slept_ns, (1, 2, 3)), mirrors
        self.domains = tuple(Domain(f"{name}-{index}", "package", True, 100) for index in range(3))

    def sample(self) -> Sample:
        return self._sample

    def mirrors(self) -> dict[int, Mirror]:
        return self._mirrors


def test_joined_sources_are_one_sample_and_one_list_of_domains():
    joined = JoinedSource(
        [
            _Timed("a", 10, 7, {2: Mirror(1, True)}),
            _Timed("b", 20, 8, {1: Mirror(0, False), 2: Mirror(1, True)}),
            _Timed("c", 30, 9, {2: Mirror(1, False)}),
        ]
    )
    assert joined.sample() == Sample(10, 35, 9, (1, 2, 3, 1, 2, 3, 1, 2, 3))
    assert joined.mirrors() == {
        2: Mirror(1, True),
        4: Mirror(3, False),
        5: Mirror(4, True),
        8: Mirror(7, False),
    }
    assert joined.name == "a+b+c"


@pytest.mark.parametrize("preference", ["", "AUTO", "Rapl", "automatic", "none "])
def test_a_preference_is_written_exactly(host: Path, preference: str):
    with pytest.raises(MeterError, match=f"meter is '{preference}'; choose one of"):
        _select(host, preference)


def test_a_wanted_meter_states_whether_it_reads_all_its_domains(host: Path):
    tree = FakePowercap(host / "sys/class/powercap", [FakeZone("package-0", (FakeZone("dram"),))])
    whole = _select(host, "rapl")
    assert (whole.attempts, whole.notes, whole.reads_all) == ((Attempt("rapl", True),), (), True)
    tree.fail("package-0/dram")
    part = _select(host, "rapl")
    (attempt,) = part.attempts
    assert (attempt.meter, attempt.works, part.notes, part.reads_all) == ("rapl", False, (attempt.reason,), False)
    assert attempt.reason.endswith("energy_uj: Input/output error")


def test_no_meter_is_missing_for_that_reason_alone(host: Path):
    meter = _select(host, "none")
    assert meter.domains == (Domain("machine", "machine", True, 1),)
    with meter.window() as window:
        pass
    assert window.reading.reasons == ("machine: the meter is none",)


def test_a_wanted_meter_that_reads_nothing_names_its_first_failure(host: Path):
    tree = FakePowercap(host / "sys/class/powercap", [FakeZone("package-0"), FakeZone("package-1")])
    tree.fail("package-0")
    tree.fail("package-1")
    with pytest.raises(MeterError, match=r"^rapl: .*/intel-rapl:0/energy_uj: Input/output error$"):
        _select(host, "rapl")
    tree.restore("package-1")
    assert _select(host, "rapl").attempts[0].works is False


def test_a_whole_part_and_two_sockets_are_modelled_by_their_cores():
    whole = utilisation_model("X", 100.0, 20.0, None, 4)
    assert (whole.idle_w, whole.full_w) == (20.0, 100.0)
    assert whole.basis == "CPU utilisation x X (100 W, idle 20 W), taken as one whole part"
    two = utilisation_model("X", 100.0, 20.0, 8, 16)
    assert (two.idle_w, two.full_w) == (40.0, 200.0)
    assert two.basis == "CPU utilisation x X (100 W, idle 20 W), 16 of its 8 cores assumed to draw their share"


@pytest.mark.parametrize(
    ("cpus", "threads", "cores"), [(0, 1, 1), (1, 1, 1), (1, 2, 1), (3, 1, 3), (7, 2, 3), (8, 2, 4), (128, 2, 64)]
)
def test_modelled_energy_is_that_of_the_cores_by_the_share_of_busy_ticks(
    host: Path, cpus: int, threads: int, cores: int
):
    """Between two reads 10 s apart, each CPU is busy for 4 s (at 100 ticks a second)."""

    def write(busy_ticks: int) -> None:
        rows = "".join(f"cpu{number} 1 0 0 1 0 0 0 0 0 0\n" for number in range(cpus))
        (host / "proc/stat").write_text(f"cpu {busy_ticks} 0 0 9 0 0 0 0\n{rows}intr 5 0\nctxt 7\nprocs_running 1\n")

    model = "model name : AMD EPYC 7763 64-Core Processor"
    (host / "proc/cpuinfo").write_text(f"{model}\nsiblings : {threads}\ncpu cores : 1\n")
    ticks_per_s, clock = os.sysconf("SC_CLK_TCK"), ManualClock()
    write(3 * ticks_per_s)
    source = ModelledSource(procfs=host / "proc", clock=clock)
    clock.advance(10.0)
    write((3 + 4 * max(1, cpus)) * ticks_per_s)
    full_w, idle_w = 280 / 64 * cores, 0.15 * 280 / 64 * cores
    assert source.sample().values == (round(1e6 * (10 * idle_w + 4 * (full_w - idle_w))),)


def test_a_model_without_proc_stat_is_a_failed_read(host: Path):
    source = ModelledSource(procfs=host / "proc", clock=ManualClock())
    (host / "proc/stat").unlink()
    (value,) = source.sample().values
    assert isinstance(value, Failure)
    assert not value.fatal
    assert "CPU columns need Linux' /proc" in value.reason
