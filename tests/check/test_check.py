"""`joulecast check` in real repositories: verdicts, exit status, written files, and the comparison with the base."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from joulecast.estimator.model.reader import Reader

from .conftest import NET, Call, commit, git

OTHER = """
[[tool.joulecast.models]]
name = "{name}"
model = "models/{file}"
"""


def document(call: Call, *arguments: str) -> dict[str, Any]:
    result = call("--json", *arguments)
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["status"] == result.returncode
    return found


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def add(project: Path, name: str, source: str, options: str = "") -> None:
    (project / f"models/{name}.py").write_text(source)
    with (project / "pyproject.toml").open("a") as stream:
        stream.write(OTHER.format(name=name, file=f"{name}.py") + options)


def double_a_layer(project: Path) -> None:
    edit(project / "models/net.py", "nn.Conv2d(16, 64,", "nn.Conv2d(16, 128,")
    edit(project / "models/net.py", "nn.Linear(64,", "nn.Linear(128,")


def test_a_repository_fails_its_check_when_a_layer_is_doubled(project: Path, call: Call) -> None:
    high = document(call)["models"][0]["estimate"]["facility_energy_kwh"]["high"]
    edit(project / "pyproject.toml", "1 MWh", f"{1.1 * high} kWh")
    commit(project)
    kept = call()
    assert kept.returncode == 0, kept.stderr
    assert "1 model: 1 within budget" in kept.stdout
    double_a_layer(project)
    broken = call("--base", "main")
    assert broken.returncode == 3
    assert "1 model: 1 over budget" in broken.stdout
    lines = broken.stdout.splitlines()
    (cause,) = [line for line in lines if line.startswith("classifier: +")]
    assert " % energy: conv3 doubled (+" in cause
    (sizes,) = [line for line in lines if "conv3 (Conv2d)" in line]
    assert "parameters 9.28 k → 18.56 k" in sizes
    assert any("over budget: " in line for line in lines)


def test_its_figures_are_those_of_estimate(
    project: Path, call: Call, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    checked = document(call)["models"][0]["estimate"]
    from joulecast.cli import main as commands

    options = ["--hardware", "t4", "--dataset", "cifar10", "--epochs", "10", "--pue", "1", "--budget", "1 MWh"]
    monkeypatch.setattr("sys.argv", ["estimate", "--model", "models/net.py:Net", *options, "--json"])
    with pytest.raises(SystemExit):
        commands.estimate()
    assert json.loads(capfd.readouterr().out) == checked


def test_budgets_and_regions_change_without_a_trace(project: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    first = document(call)["models"][0]["estimate"]

    def never(reader: Reader, request: object, **options: object) -> None:
        raise AssertionError(f"traced {request}")

    monkeypatch.setattr(Reader, "read", never)
    edit(project / "pyproject.toml", "pue = 1.0", "pue = 1.5")
    edit(project / "pyproject.toml", "1 MWh", "1 J")
    second = document(call)
    assert second["status"] == 3
    energy = second["models"][0]["estimate"]["facility_energy_kwh"]["value"]
    assert energy == pytest.approx(1.5 * first["facility_energy_kwh"]["value"])
    edit(project / "models/sizes.py", "16", "17")
    with pytest.raises(AssertionError, match="traced"):
        call()


def test_no_cache_keeps_nothing(project: Path, call: Call, tmp_path: Path) -> None:
    assert call("--no-cache", "--base", "main").returncode == 0
    assert not (tmp_path / "cache").exists()
    assert call("--cache-dir", tmp_path / "own").returncode == 0
    assert len(list((tmp_path / "own").glob("*/*.json"))) == 1
    assert not (tmp_path / "cache").exists()


def test_a_model_that_fails_leaves_the_others_their_figures(project: Path, call: Call, tmp_path: Path) -> None:
    add(project, "broken", "raise ValueError('my | <own> words')\n", 'budget = "1 MWh"\n')
    add(project, "free", NET)
    result = call("--junit", tmp_path / "out/check.xml", "--markdown", tmp_path / "check.md", "--traceback")
    assert result.returncode == 1
    assert "3 models: 1 failed, 1 within budget, 1 without a budget" in result.stdout
    assert "broken.py:1 in <module>" in result.stdout
    assert "raise ValueError" in result.stderr
    suite = ElementTree.parse(tmp_path / "out/check.xml").getroot()[0]
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "3",
        "failures": "0",
        "errors": "1",
        "skipped": "1",
    }
    cases = {case.get("name"): case for case in suite}
    error = cases["broken"].find("error")
    assert error is not None
    assert error.get("type") == "ModelError"
    assert "my | <own> words" in (error.get("message") or "")
    assert "raise ValueError" in (error.text or "")
    assert not list(cases["classifier"])
    assert cases["free"].find("skipped") is not None
    written = (tmp_path / "check.md").read_text()
    assert "| broken |" in written
    assert r"my \| \<own\> words" in written
    widths = {line.count(" | ") for line in written.splitlines() if line.startswith("|")}
    assert widths == {6}
    assert call("free").returncode == 0  # alone, without the one that fails


def test_a_breach_says_more_than_a_failure(project: Path, call: Call, tmp_path: Path) -> None:
    add(project, "broken", "raise ValueError('no')\n")
    edit(project / "pyproject.toml", "1 MWh", "1 J")
    assert call("--junit", tmp_path / "check.xml").returncode == 3
    suite = ElementTree.parse(tmp_path / "check.xml").getroot()[0]
    (failure,) = suite.iter("failure")
    assert failure.get("type") == "BudgetExceeded"
    assert "over budget: " in (failure.get("message") or "")
    assert "epochs would fit" in (failure.text or "")


def test_what_xml_cannot_hold_is_left_out(project: Path, call: Call, tmp_path: Path) -> None:
    add(project, "colours", "raise ValueError('\\x1b[31mred\\x00 & <b>\\ud800')\n")
    assert call("--junit", tmp_path / "check.xml").returncode == 1
    (error,) = ElementTree.parse(tmp_path / "check.xml").getroot().iter("error")
    assert "[31mred & <b>" in (error.get("message") or "")


# -- the base ------------------------------------------------------------------------------------


def state(project: Path) -> dict[str, bytes]:
    """Every file of the checkout and of its repository."""
    return {str(path): path.read_bytes() for path in sorted(project.rglob("*")) if path.is_file()}


def test_the_base_is_read_with_its_own_configuration_and_nothing_of_the_checkout_changes(
    project: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(project, "old", NET)
    (project / ".gitattributes").write_text("models export-ignore\n")
    commit(project, "second")
    git(project, "checkout", "--quiet", "-b", "work")
    edit(project / "pyproject.toml", 'name = "old"\nmodel = "models/old.py"', 'name = "new"\nmodel = "models/net.py"')
    edit(project / "pyproject.toml", "epochs = 10", "epochs = 20")
    edit(project / "models/sizes.py", "16", "24")
    (project / "models/net.py").touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    before = state(project)
    found = document(call, "--base", "main")
    assert state(project) == before
    left = [path.name for path in (tmp_path / "tmp").iterdir() if not path.name.startswith("torchinductor")]
    assert left == []
    assert found["base"] == "main"
    assert found["removed"] == ["old"]
    models = {model["name"]: model for model in found["models"]}
    assert models["new"]["new"]
    change = models["classifier"]["change"]
    assert change["settings"] == ["steps 31,260, was 15,630"]
    layers = {layer["path"]: layer for layer in change["layers"]}
    assert layers["conv1"]["parameters"] == [16 * 28, 24 * 28]
    assert layers["conv2"]["what"] == "is 1.5 times as large"
    table = call("--base", "main", "--markdown", tmp_path / "check.md").stdout
    assert "old: removed since main" in table
    written = (tmp_path / "check.md").read_text()
    assert "| against main |" in written
    assert "steps 31,260, was 15,630; conv2 is 1.5 times as large (+" in written
    assert "448 → 672" in written


def test_what_did_not_change_is_traced_once_for_both(
    project: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced, really = [], Reader.read
    monkeypatch.setattr(
        Reader, "read", lambda *given, **options: traced.append(given[1].model) or really(*given, **options)
    )
    with (project / "pyproject.toml").open("a") as stream:
        stream.write(OTHER.format(name="longer", file="net.py:Net") + "epochs = 90\n")
    found = document(call, "--base", "HEAD")["models"]
    assert found[0]["change"]["summary"] == "unchanged"
    assert found[1]["estimate"]["steps"] == 9 * found[0]["estimate"]["steps"]
    assert traced == ["models/net.py:Net"]


def test_a_base_without_a_configuration_or_with_a_broken_one(project: Path, call: Call) -> None:
    git(project, "checkout", "--quiet", "--orphan", "empty")
    git(project, "rm", "--quiet", "-r", "--cached", ".")
    git(project, "commit", "--quiet", "--allow-empty", "--message", "nothing")
    git(project, "checkout", "--quiet", "--force", "main")
    found = document(call, "--base", "empty")
    assert found["status"] == 0
    assert found["notes"] == ["no comparison with empty: it has no configuration"]
    edit(project / "pyproject.toml", "epochs = 10", "epohcs = 10")
    commit(project, "a typo")
    edit(project / "pyproject.toml", "epohcs = 10", "epochs = 10")
    (note,) = document(call, "--base", "main")["notes"]
    assert "unknown key 'epohcs'; did you mean epochs" in note


def test_a_model_that_fails_at_the_base_is_not_compared(project: Path, call: Call) -> None:
    good = (project / "models/net.py").read_text()
    (project / "models/net.py").write_text("raise ValueError('was broken')\n")
    commit(project)
    (project / "models/net.py").write_text(good)
    found = document(call, "--base", "main")
    assert found["status"] == 0
    assert found["models"][0]["change"] is None
    assert "classifier is not compared: at main, net.py:1" in found["notes"][0]


# Finds the package `shop` in the checkout, as `pip install -e` of some build backends makes it.
HOOK = """
import sys
from importlib.machinery import PathFinder
class Hook:
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [{!r}]) if name == "shop" else None
sys.meta_path.insert(0, Hook)
"""


@pytest.fixture
def package(project: Path) -> Path:
    """The project's model in a package of its own, with a layer doubled since the commit."""
    package = project / "src/shop"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "nets.py").write_text(NET.replace("from sizes", "from shop.sizes"))
    (package / "sizes.py").write_text("WIDTH = 16\n")
    edit(project / "pyproject.toml", "models/net.py:Net", "shop.nets:Net")
    commit(project)
    edit(package / "nets.py", "nn.Conv2d(16, 64,", "nn.Conv2d(16, 128,")
    edit(package / "nets.py", "nn.Linear(64,", "nn.Linear(128,")
    return package


def test_the_bases_package_is_read_where_the_path_leads_to_the_checkout(
    package: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(package.parent))
    found = document(call, "--base", "main")
    assert "conv3 doubled" in found["models"][0]["change"]["summary"]
    assert "shop" not in sys.modules


def test_a_package_that_a_hook_finds_in_the_checkout_is_not_taken_for_the_bases(
    project: Path, package: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(HOOK.format(str(package.parent)))
    command = ["joulecast", "check", "--json", "--base", "main"]
    own = {**environment, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(command, cwd=project, env=own, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["models"][0]["change"] is None
    assert "imports src/shop/__init__.py from the checkout" in found["notes"][0]


def test_a_configuration_in_a_folder_of_the_repository(project: Path, call: Call) -> None:
    inner = project / "training"
    inner.mkdir()
    (project / "models").rename(inner / "models")
    (project / "pyproject.toml").rename(inner / "pyproject.toml")
    commit(project)
    double_a_layer(inner)
    found = document(call, "--config", "training/pyproject.toml", "--base", "main")
    assert "conv3 doubled" in found["models"][0]["change"]["summary"]


# -- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["clasifier"], "has no model 'clasifier'; did you mean classifier"),
        (["--config", "none.toml"], "none.toml cannot be read"),
        (["--base", "mian"], "--base mian is not a commit of this repository"),
        (["--base", "--help"], "is not a git ref"),
        (["--no-cache", "--cache-dir", "x"], "contradict"),
        (["--junit", "models"], "models is a folder"),
        (["--jobs", "0"], "--jobs"),
    ],
)
def test_wrong_options_are_one_line(call: Call, arguments: list[str], words: str) -> None:
    result = call(*arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_wrong_configuration_is_one_line(project: Path, call: Call) -> None:
    edit(project / "pyproject.toml", "budget =", "bugdet =")
    result = call()
    assert result.returncode == 2
    place = "pyproject.toml, [[tool.joulecast.models]] 1 (classifier)"
    assert result.stderr == f"joulecast: {place}: unknown key 'bugdet'; did you mean budget or budget_at?\n"


def test_a_base_outside_of_a_repository(project: Path, call: Call, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "joulecast.toml").write_text('models = [{ model = "net.py", hardware = "t4", steps = 1 }]\n')
    result = call("--config", bare / "joulecast.toml", "--base", "main")
    assert result.returncode == 2
    assert "needs a git repository" in result.stderr


def test_a_file_that_cannot_be_written(project: Path, call: Call) -> None:
    result = call("--markdown", "pyproject.toml/check.md")
    assert result.returncode == 1
    assert "pyproject.toml/check.md cannot be written" in result.stderr


# -- as people run it ----------------------------------------------------------------------------


def test_a_warm_check_loads_no_framework(project: Path, call: Call, environment: dict[str, str]) -> None:
    assert call("--base", "main").returncode == 0
    code = (
        "import sys; sys.argv = ['joulecast', 'check', '--base', 'main']\n"
        "from joulecast.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'joblib', 'pandas', 'sklearn', 'scipy', 'keras', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=project, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "unchanged" in result.stdout


def test_interrupting_ends_the_workers_too(project: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    source = "import os, pathlib, time\npathlib.Path({!r}).write_text(str(os.getpid()))\ntime.sleep(300)\n"
    add(project, "slow", source.format(str(tmp_path / "pid")))
    process = subprocess.Popen(
        ["joulecast", "check", "--jobs", "1"],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.strip() == "joulecast: interrupted"
    assert out == ""
    worker = Path("/proc", (tmp_path / "pid").read_text())
    assert not worker.exists()


def test_help_says_what_the_statuses_mean(call: Call) -> None:
    shown = call("--help")
    assert shown.returncode == 0
    assert "3 a budget is exceeded" in " ".join(shown.stdout.split())
