from __future__ import annotations

from pathlib import Path

import pytest

from joulecast.estimator.base.errors import MeterError
from joulecast.measure.meters.meter import SampledMeter
from joulecast.measure.meters.modelled import ModelledSource, utilisation_model
from joulecast.measure.meters.rapl import RaplSource
from joulecast.measure.meters.selection import PREFERENCES, JoinedSource, _chosen, _failures, select_meter
from joulecast.measure.meters.tally import Domain, Mirror, Sample
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
    assert any("unknown hardware 'Mystery 9000'" in note for note in meter.notes)


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
        ("", "nvml", "", "nvml"),
        ("", "", "nvml", ""),  # a GPU that cannot be read needs a CPU's counter beside it
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
