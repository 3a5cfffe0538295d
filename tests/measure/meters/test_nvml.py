from __future__ import annotations

import sys

import pytest

from joulecast.estimator.base.errors import MeterError
from joulecast.measure.meters.meter import SampledMeter
from joulecast.measure.meters.nvml import NoGpuError, NvmlSource, visible_indices
from joulecast.measure.meters.testing import FakeGpu, FakeNvml, ManualClock

UUIDS = ("GPU-aaaa-1", "GPU-aabb-2", "GPU-cccc-3")


@pytest.mark.parametrize(
    ("variable", "indices"),
    [
        (None, [0, 1, 2]),
        ("2,0", [2, 0]),
        ("GPU-cc, 1", [2, 1]),
        ("", []),
        ("-1", []),
        ("0,7,1", [0]),  # CUDA stops at the first that is not there
        ("0,3,1", [0]),
        ("GPU-aa", []),  # two start so
        ("1,1", [1]),
    ],
)
def test_cuda_visible_devices(variable: str | None, indices: list[int]):
    assert visible_indices(variable, UUIDS) == indices


def test_mig_instances_have_no_counter():
    with pytest.raises(MeterError, match="names the MIG instance MIG-123"):
        visible_indices("MIG-123", UUIDS)


def _window(nvml: FakeNvml, seconds: float = 2.0, steps: int = 10, **environ: str):
    clock = ManualClock()
    meter = SampledMeter(NvmlSource(nvml, environ=environ, clock=clock), interval_s=None)
    with meter.window() as window:
        for _ in range(steps):
            clock.advance(seconds / steps)
            nvml.advance(seconds / steps)
            meter.poll()
    meter.close()
    return window.reading


def test_a_gpu_draws_at_most_three_kilowatts():
    """More than twice the largest board of the hardware table: a counter that rises faster was reset."""
    source = NvmlSource(FakeNvml([FakeGpu(watts=300)]), environ={}, clock=ManualClock())
    assert [domain.ceiling_w for domain in source.domains] == [3000]


def test_several_gpus_are_summed_in_millijoules():
    reading = _window(FakeNvml([FakeGpu(uuid=UUIDS[0], watts=300), FakeGpu(uuid=UUIDS[1], watts=250)]))
    assert reading.energy_uj == reading.gpu_energy_uj == 1_100_000_000
    assert [domain.domain for domain in reading.domains] == ["gpu-0", "gpu-1"]
    assert {domain.method for domain in reading.domains} == {"counter"}


def test_one_refresh_between_two_close_reads_is_energy_and_not_a_reset():
    nvml, clock = FakeNvml([FakeGpu(watts=350)]), ManualClock()
    meter = SampledMeter(NvmlSource(nvml, environ={}, clock=clock), interval_s=None)
    with meter.window() as window:
        clock.advance(0.001)
        nvml.advance(0.1)  # the counter shows the last 100 ms at once
    assert window.reading.energy_uj == 35_000_000


def test_only_visible_gpus_count():
    gpus = [FakeGpu(uuid=uuid, watts=watts) for uuid, watts in zip(UUIDS, (100, 200, 400), strict=True)]
    reading = _window(FakeNvml(gpus), CUDA_VISIBLE_DEVICES="2")
    assert [domain.domain for domain in reading.domains] == ["gpu-2"]
    assert reading.energy_uj == 800_000_000


def test_without_a_counter_power_is_integrated_and_labelled_so():
    reading = _window(FakeNvml([FakeGpu(name="Tesla P100", watts=120, has_counter=False)]))
    domain = reading.domains[0]
    assert (domain.energy_uj, domain.method, domain.label) == (240_000_000, "integrated power", "measured")
    assert "Tesla P100 has no energy counter (Not Supported)" in domain.reason


def test_neither_counter_nor_power_is_missing():
    source = NvmlSource(FakeNvml([FakeGpu(has_counter=False, has_power=False)]), environ={})
    assert "Not Supported" in source.failures[0]
    assert _window(FakeNvml([FakeGpu(has_counter=False, has_power=False)])).label == "missing"


def test_a_gpu_with_mig_is_missing_with_the_reason():
    reading = _window(FakeNvml([FakeGpu(mig=True), FakeGpu(uuid=UUIDS[1], mig=False)]))
    assert [domain.label for domain in reading.domains] == ["missing", "measured"]
    assert "MIG is on" in reading.domains[0].reason
    assert reading.energy_uj is None


def test_indices_among_unlike_gpus_need_the_pci_order():
    gpus = [FakeGpu(name="NVIDIA A100", uuid=UUIDS[0]), FakeGpu(name="NVIDIA T4", uuid=UUIDS[1])]
    with pytest.raises(MeterError, match="set CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        NvmlSource(FakeNvml(gpus), environ={"CUDA_VISIBLE_DEVICES": "0"})
    chosen = {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert NvmlSource(FakeNvml(gpus), environ=chosen).domains[0].name == "gpu-0"
    assert NvmlSource(FakeNvml(gpus), environ={"CUDA_VISIBLE_DEVICES": UUIDS[1]}).domains[0].name == "gpu-1"


def test_no_driver_and_no_gpu_are_one_line_and_leave_nothing_open():
    with pytest.raises(MeterError, match="Driver Not Loaded"):
        NvmlSource(FakeNvml([], driver=False), environ={})
    empty = FakeNvml([])
    with pytest.raises(MeterError, match="no GPU among 0 is visible"):
        NvmlSource(empty, environ={})
    assert empty.open_count == 0


def test_a_lost_gpu_in_the_middle_is_a_gap_and_at_the_end_missing():
    nvml, clock = FakeNvml([FakeGpu(watts=100)]), ManualClock()
    meter = SampledMeter(NvmlSource(nvml, environ={}, clock=clock), interval_s=None)
    window = meter.open()
    for lost in (True, False):
        nvml.gpus[0].has_counter = not lost
        clock.advance(1.0)
        nvml.advance(1.0)
        meter.poll()
    assert window.so_far().energy_uj == 200_000_000
    nvml.gpus[0].has_counter = False
    assert window.close().label == "missing"


@pytest.mark.parametrize(("modes", "label"), [([0, 1], "measured"), ([1, 0], "missing")])
def test_the_current_mig_mode_counts_and_not_the_one_after_the_next_reset(
    monkeypatch: pytest.MonkeyPatch, modes: list[int], label: str
):
    nvml = FakeNvml([FakeGpu(mig=False)])
    monkeypatch.setattr(nvml, "nvmlDeviceGetMigMode", lambda gpu: modes)
    assert _window(nvml).label == label


@pytest.mark.parametrize(
    ("gpus", "environ", "message"),
    [
        (0, {}, "no GPU among 0 is visible"),
        (2, {"CUDA_VISIBLE_DEVICES": ""}, "no GPU among 2 is visible (CUDA_VISIBLE_DEVICES is '')"),
        (1, {"CUDA_VISIBLE_DEVICES": "-1"}, "no GPU among 1 is visible (CUDA_VISIBLE_DEVICES is '-1')"),
    ],
)
def test_no_visible_gpu_is_stated_with_the_variable_that_hides_them(gpus: int, environ: dict[str, str], message: str):
    with pytest.raises(NoGpuError) as caught:
        NvmlSource(FakeNvml([FakeGpu() for _ in range(gpus)]), environ=environ)
    assert str(caught.value) == message


def test_a_gpu_with_mig_is_lost_for_the_whole_window_and_a_failed_read_is_not():
    source = NvmlSource(FakeNvml([FakeGpu(mig=True), FakeGpu(has_counter=False, has_power=False)]), environ={})
    assert [value.fatal for value in source.sample().values] == [True, False]


def test_without_nvidias_package_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NoGpuError, match="nvidia-ml-py is not installed; pip install 'joulecast\\[gpu\\]'"):
        NvmlSource(environ={})
