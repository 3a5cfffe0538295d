"""Which calibration is used: this machine's own with the same number of threads, never an unreadable file."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from joulecast.estimator.base.errors import HardwareError, ProfileError
from joulecast.estimator.base.folders import profiles_folder
from joulecast.estimator.cost import library
from joulecast.estimator.cost.host import Gpu, Host
from joulecast.estimator.cost.library import calibrations, hardware_of, load_profile, newest_calibration
from joulecast.estimator.cost.names import Match, find_hardware
from joulecast.estimator.cost.probe import CpuProbe
from joulecast.estimator.cost.profile import Profile

HERE = Host("AMD EPYC", 4, (), "Linux 6", "x86_64", True)
RECORDED = {"cpu_name": "AMD EPYC", "cpu_cores": 4, "machine": "x86_64", "gpus": [], "threads": 4, "environment": {}}


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOULECAST_STORE", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def calibrated(name: str, created: str = "2026-01-01", **host: Any) -> Profile:
    """Saved as `measure` saves it; None removes a key, as in older profiles."""
    recorded = {key: value for key, value in {**RECORDED, **host}.items() if value is not None}
    base = load_profile("t4")
    made = replace(base, name=name, host=recorded, provenance=replace(base.provenance, created=created))
    made.save(profiles_folder() / f"{name}.json")
    return made


def answering(host: Host = HERE) -> str | None:
    found = newest_calibration(host, "pytorch")
    return None if found is None else found.name


@pytest.mark.parametrize(
    "other", [{"cpu_cores": 8}, {"machine": "aarch64"}, {"cpu_name": "Intel"}, {"gpus": ["Tesla T4"]}]
)
def test_another_machine_never_answers(other: dict[str, Any]) -> None:
    calibrated("theirs", "2026-02-02", **other)
    assert answering() is None
    calibrated("ours")
    assert answering() == "ours"


def test_a_profile_from_before_cores_were_recorded_still_answers() -> None:
    calibrated("old", cpu_cores=None, machine=None, threads=None, environment=None)
    assert answering() == "old"


def test_without_a_cpu_name_cores_and_machine_must_agree() -> None:
    arm = replace(HERE, cpu_name="", machine="aarch64")
    calibrated("old", cpu_name="", cpu_cores=None, machine=None)
    calibrated("smaller", cpu_name="", cpu_cores=2, machine="aarch64")
    assert answering(arm) is None
    calibrated("same", cpu_name="", machine="aarch64")
    assert answering(arm) == "same"


def test_as_many_threads_go_before_newer_and_others_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    calibrated("one", "2026-02-02", threads=1, environment={"OMP_NUM_THREADS": "1"})
    found = newest_calibration(HERE, "pytorch")
    assert found is not None
    assert found.provenance.notes[-1] == ("measured with 1 threads, 4 compute now: set OMP_NUM_THREADS=1 or `measure`")
    four = calibrated("four")
    assert newest_calibration(HERE, "pytorch") == four
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert answering() == "one"


def test_the_same_setting_is_the_same_count_where_cores_are_not_threads() -> None:
    made = calibrated("smt", threads=8)
    assert newest_calibration(HERE, "pytorch") == made


def test_a_broken_profile_is_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    ours = calibrated("ours")
    broken = profiles_folder() / "broken.json"
    broken.write_text('{"schema": "joulecast.profile/9"}')
    problems: list[str] = []
    assert calibrations(problems.append) == [ours]
    (line,) = problems
    assert str(broken) in line
    assert line.endswith("calibrate again with `measure`, or delete the file")
    with caplog.at_level(logging.WARNING, "joulecast"):
        assert newest_calibration(HERE, "pytorch") == ours
    assert [record.getMessage() for record in caplog.records] == [f"left out: {line}"]


def test_a_calibration_is_found_by_its_name() -> None:
    ours = calibrated("amd-epyc-4-threads-20260101000000")
    assert load_profile(ours.name) == ours
    with pytest.raises(HardwareError, match="unknown hardware 'amd-epyc-4-threads-2027'"):
        load_profile("amd-epyc-4-threads-2027")


def test_gpus_that_could_not_be_listed_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a calibration, the datasheet and a probe of the CPU."""
    blind = replace(HERE, cpu_name=find_hardware("epyc-7763").name, gpu_problem="no driver")
    note = "the CPU is used, because GPUs could not be listed: no driver"
    monkeypatch.setattr(library, "detect_host", lambda: blind)
    assert load_profile().provenance.notes[-1] == note
    calibrated("ours", cpu_name=blind.cpu_name)
    assert (load_profile().name, load_profile().provenance.notes[-1]) == ("ours", note)
    monkeypatch.setattr(library, "detect_host", lambda: replace(blind, cpu_name="Unheard of"))
    monkeypatch.setattr(library, "probe_cpu", lambda *_: CpuProbe(0.9, 40.0, 4))
    assert load_profile().provenance.notes[-1] == note
    monkeypatch.setattr(library, "detect_host", lambda: replace(blind, gpus=(Gpu("Tesla T4", 16),)))
    assert note not in load_profile().provenance.notes


def test_a_cpu_that_no_table_holds_is_probed_and_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "detect_host", lambda: HERE)
    monkeypatch.setattr(library, "probe_cpu", lambda *_: CpuProbe(0.9, 40.0, 4))
    profile = load_profile()
    assert (profile.hardware, profile.device) == ("AMD EPYC", "cpu")
    assert (profile.provenance.time, profile.provenance.power) == ("probed", "assumed")
    assert profile.provenance.notes[-2].endswith("a probe reached 900 GFLOPS and 40 GB/s")
    assert profile.provenance.notes[-1].startswith("24 W are assumed for 4 cores")
    given = load_profile("watts=150")
    assert given.provenance.power == "given"
    assert not any("are assumed for" in note for note in given.provenance.notes)
    known = load_profile("epyc-7763").energy_error
    assert profile.energy_error.low < known.low  # the watts are a class's
    assert profile.energy_error.high > known.high
    assert load_profile("AMD EPYC") == profile  # this machine's CPU by its name


def test_a_virtual_machine_has_its_share_of_a_known_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "AMD EPYC 7763 64-Core Processor"
    monkeypatch.setattr(library, "detect_host", lambda: replace(HERE, cpu_name=name))
    profile = load_profile()
    assert profile.name == "epyc-7763"
    assert profile.provenance.notes[-1] == "4 of the 64 cores of EPYC 7763, with their share of its power"
    full = load_profile("epyc-7763")
    assert profile.power.static_w == pytest.approx(full.power.static_w / 16)
    assert load_profile("cores=64").power.static_w == pytest.approx(full.power.static_w)


def test_a_gpu_that_no_table_holds_comes_from_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Gpu("NVIDIA Q9000", 48.0, 10752, 1740.0, 7251.0, 384, (8, 6), 300.0)
    monkeypatch.setattr(library, "detect_host", lambda: replace(HERE, gpus=(card,)))
    profile = load_profile()
    assert (profile.hardware, profile.device, profile.name) == ("NVIDIA Q9000", "gpu", "nvidia-q9000")
    assert (profile.provenance.time, profile.provenance.power) == ("probed", "probed")
    assert profile.memory_bytes == 48_000_000_000
    monkeypatch.setattr(library, "detect_host", lambda: replace(HERE, gpus=(Gpu("NVIDIA Q9000", 48.0),)))
    with pytest.raises(
        HardwareError, match=r"this machine's GPU: unknown hardware .* does not say its CUDA cores, clock"
    ):
        load_profile()


def test_boards_of_one_name_are_told_apart_by_the_drivers_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Gpu("NVIDIA GeForce RTX 3080", 12.0)
    monkeypatch.setattr(library, "detect_host", lambda: replace(HERE, gpus=(card,)))
    assert load_profile().name == "rtx-3080-12gb"


def test_assumed_watts_stay_uncertain_where_the_software_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Gpu("NVIDIA Q9000", 48.0, 10752, 1740.0, 7251.0, 384, (8, 6), None)
    monkeypatch.setattr(library, "detect_host", lambda: replace(HERE, gpus=(card,)))
    assumed = load_profile()
    assert assumed.provenance.power == "assumed"
    known, stated = load_profile("a40").for_software("eager"), assumed.for_software("eager")
    assert stated.energy_error.high > 1.2 * known.energy_error.high
    assert stated.energy_error.low < known.energy_error.low
    again = stated.for_software("eager")
    assert again.energy_error.high == pytest.approx(stated.energy_error.high)
    assert load_profile("a40").for_software("eager").energy_error == known.energy_error


def test_the_shipped_measurement_answers_for_this_machines_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Gpu("NVIDIA GeForce RTX 3090", 24.0)
    monkeypatch.setattr(library, "detect_host", lambda: replace(HERE, gpus=(card,)))
    assert load_profile().provenance.time == "measured"
    part = find_hardware("rtx-3090")
    monkeypatch.setattr(library, "look_up", lambda name, **_: Match(replace(part, notes=("a share of it",))))
    assert load_profile().provenance.time == "datasheet"  # what was measured is not quite this part


@pytest.mark.parametrize("name", ["missing.json", Path("missing"), "folder/missing"])
def test_what_is_read_as_a_file(name: str | Path) -> None:
    with pytest.raises(ProfileError, match="missing"):
        load_profile(name)


def test_a_file_in_this_folder_and_at_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = load_profile("t4")
    base.save(tmp_path / "mine.json")
    base.save(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert load_profile("mine.json") == load_profile(Path("mine")) == load_profile("./mine") == base


def test_the_row_of_a_text() -> None:
    assert hardware_of("Tesla T4").key == "t4"
    assert hardware_of("tflops=35,bandwidth=448,watts=150").fp32_tflops == 35
    assert (hardware_of("t4,watts=60").key, hardware_of("t4,watts=60").power_w) == ("t4", 60)


def test_doubt_about_watts_adds_in_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "detect_host", lambda: HERE)
    monkeypatch.setattr(library, "probe_cpu", lambda *_: CpuProbe(0.9, 40.0, 4))
    known, found = load_profile("epyc-7763").energy_error, load_profile().energy_error
    assert find_hardware("epyc-7763").power_spread == 1.0
    assert found.low == pytest.approx(math.exp(-math.hypot(math.log(known.low), math.log(2))))
    assert found.high == pytest.approx(math.exp(math.hypot(math.log(known.high), math.log(2))))


@pytest.mark.parametrize(
    ("text", "time", "power"),
    [
        ("kind=cpu,cores=10", "assumed", "assumed"),
        ("cores=10,tflops=0.8,watts=80", "given", "given"),
        ("t4,watts=60", "datasheet", "given"),
        ("t4,tflops=8", "given", "datasheet"),
    ],
)
def test_labels_of_stated_figures(text: str, time: str, power: str) -> None:
    provenance = load_profile(text).provenance
    assert (provenance.time, provenance.power) == (time, power)


def test_the_first_of_two_gpus_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    both = (Gpu("Tesla T4", 16.0), Gpu("NVIDIA A40", 48.0))
    monkeypatch.setattr(library, "detect_host", lambda: replace(HERE, gpus=both))
    assert load_profile().name == "t4"
    assert load_profile("NVIDIA A40").name == "a40"


def test_the_newest_calibration_goes_first() -> None:
    for name, created in (("a", "2026-01-02"), ("b", "2026-01-03"), ("c", "2026-01-01")):
        calibrated(name, created)
    assert [one.name for one in calibrations()] == ["b", "a", "c"]
    assert answering() == "b"


@pytest.mark.parametrize("framework", ["keras", "tensorflow", "zzz"])
def test_another_framework_never_answers(framework: str) -> None:
    calibrated("ours")
    assert newest_calibration(HERE, framework) is None


@pytest.mark.parametrize("name", ["AAA", "ZZZ", "", None])
def test_another_cpu_never_answers(name: str | None) -> None:
    calibrated("theirs", cpu_name=name)
    assert answering() is None


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_other_threads_are_noted(threads: int) -> None:
    calibrated("other", threads=threads, environment={"OMP_NUM_THREADS": str(threads)})
    found = newest_calibration(HERE, "pytorch")
    assert found is not None
    assert found.provenance.notes[-1].startswith(f"measured with {threads} threads, 4 compute now")
    calibrated("unset", threads=threads, environment=None)
    again = newest_calibration(HERE, "pytorch")
    assert again is not None
    assert "compute now" in again.provenance.notes[-1]  # what was set then is not known
