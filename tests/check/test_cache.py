"""The cache: an entry is valid until a file that the model was read from changes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from joulecast.check.cache import Cache, trace_key
from joulecast.estimator.model.inputs import InputSpec
from joulecast.estimator.model.read_model import TraceOptions
from joulecast.estimator.model.reader import Reading, ReadRequest, free_reader

OPTIONS = TraceOptions(specs=(InputSpec((3, 8, 8)),), batch_size=4)
SPEC = "models/net.py:Net"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "kept")


def traced(root: Path, spec: str = SPEC, options: TraceOptions = OPTIONS) -> Reading:
    with free_reader() as reader:
        return reader.read(ReadRequest(spec, options, root, root))


def kept(cache: Cache, root: Path, spec: str = SPEC) -> Reading:
    found = traced(root, spec)
    cache.store(trace_key(spec, OPTIONS), root, found.work, found.sources)
    return found


def test_the_sources_are_the_models_own_files(project: Path) -> None:
    (project / "models/unused.py").write_text("")
    own = [str(project / "models/net.py"), str(project / "models/sizes.py")]
    assert list(traced(project).sources) == own


def test_a_file_that_the_model_reads_is_a_source_too(project: Path) -> None:
    (project / "width.txt").write_text("4\n")
    (project / "models/sizes.py").write_text("import pathlib\nWIDTH = int(pathlib.Path('width.txt').read_text())\n")
    assert str(project / "width.txt") in traced(project).sources


def test_an_entry_is_found_until_a_source_changes_and_again_when_it_is_as_before(project: Path, cache: Cache) -> None:
    work, key = kept(cache, project).work, trace_key(SPEC, OPTIONS)
    assert cache.find(key, project) == work
    helper = project / "models/sizes.py"
    before = helper.read_text()
    helper.write_text("WIDTH = 32\n")
    assert cache.find(key, project) is None
    wider = kept(cache, project).work
    assert wider.parameters > work.parameters
    assert cache.find(key, project) == wider
    helper.write_text(before)
    assert cache.find(key, project) == work
    helper.unlink()
    assert cache.find(key, project) is None


def test_an_entry_holds_wherever_the_project_lies(project: Path, cache: Cache) -> None:
    work = kept(cache, project).work
    moved = project.rename(project.with_name("elsewhere"))
    assert cache.find(trace_key(SPEC, OPTIONS), moved) == work


def test_the_key_is_of_what_decides_the_trace() -> None:
    key = trace_key(SPEC, OPTIONS)
    assert trace_key(SPEC, replace(OPTIONS, time_limit_s=1.0)) == key
    others = [
        replace(OPTIONS, batch_size=8),
        replace(OPTIONS, optimizer="adam"),
        replace(OPTIONS, args={"classes": "3"}),
        replace(OPTIONS, specs=(InputSpec((3, 16, 16)),)),
    ]
    assert len({key, trace_key("models/net.py", OPTIONS), *(trace_key(SPEC, item) for item in others)}) == 6


def test_another_set_of_packages_is_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from joulecast.check import cache as module

    key = trace_key(SPEC, OPTIONS)
    (tmp_path / "torch-99.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    module._tracer.cache_clear()
    try:
        assert trace_key(SPEC, OPTIONS) != key
    finally:
        module._tracer.cache_clear()


def test_another_joulecast_is_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources of a checkout change without a new version, in any folder of the estimator."""
    import shutil

    from joulecast.check import cache as module

    package = Path(module.workload.__file__).parents[1]
    copy = shutil.copytree(package, tmp_path / "estimator", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module.workload, "__file__", str(copy / "trace" / "workload.py"))
    keys = set()
    try:
        for changed in (None, copy / "cost" / "hardware.py", copy / "trace" / "recorder.py"):
            if changed is not None:
                changed.write_text(changed.read_text() + "# changed\n")
            module._tracer.cache_clear()
            keys.add(trace_key(SPEC, OPTIONS))
    finally:
        module._tracer.cache_clear()
    assert len(keys) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("float32", "float64", 1),
        lambda text: text.replace("check-cache/1", "check-cache/0"),
        lambda text: "[]\n" + text,
        lambda text: "\x00" + text,
    ],
)
def test_a_damaged_entry_is_none(project: Path, cache: Cache, damage) -> None:
    kept(cache, project)
    (path,) = cache.folder.glob("*/*.json")
    path.write_text(damage(path.read_text()))
    assert cache.find(trace_key(SPEC, OPTIONS), project) is None
    work = kept(cache, project).work
    assert cache.find(trace_key(SPEC, OPTIONS), project) == work


def test_a_folder_that_cannot_be_written_is_told_and_no_failure(project: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "below")
    kept(cache, project)
    assert cache.problem is not None
    assert "the next check traces again" in cache.problem
    assert cache.find(trace_key(SPEC, OPTIONS), project) is None


def test_the_entries_used_longest_ago_go_first(project: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    from joulecast.check import cache as module

    monkeypatch.setattr(module, "_MOST_ENTRIES", 2)
    work = traced(project).work
    for age, key in enumerate(("newest", "middle", "oldest")):
        cache.store(key, project, work, [])
        (path,) = cache.folder.glob(f"{key}/*.json")
        os.utime(path, (1e9 - age, 1e9 - age))
    assert cache.find("oldest", project) == work  # which makes it the newest
    cache.prune()
    assert [cache.find(key, project) is not None for key in ("newest", "middle", "oldest")] == [True, False, True]
