"""The commands of the GitHub Action and the pre-commit hook, run on a clone like a runner's."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .conftest import Call, commit, git

yaml = pytest.importorskip("yaml")
TOP = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not (TOP / "action.yml").exists(), reason="no checkout around the tests")


def step(name: str) -> dict[str, Any]:
    steps = yaml.safe_load((TOP / "action.yml").read_text())["runs"]["steps"]
    (found,) = [item for item in steps if item.get("name") == name]
    return dict(found)


@pytest.fixture
def clone(project: Path, tmp_path: Path) -> Path:
    """What actions/checkout creates for a pull request into `main`: one commit and no branch."""
    git(project, "checkout", "--quiet", "-b", "wider")
    net = project / "models/net.py"
    net.write_text(net.read_text().replace("(16, 64,", "(16, 128,").replace("Linear(64,", "Linear(128,"))
    commit(project, "wider")
    folder = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--depth=1", "--branch=wider", project.as_uri(), str(folder))
    git(folder, "checkout", "--quiet", "--detach")
    git(folder, "branch", "--quiet", "--delete", "--force", "wider")
    return folder


def test_the_actions_script_fetches_the_base_and_writes_the_summary(
    clone: Path, tmp_path: Path, call: Call, environment: dict[str, str]
) -> None:
    assert call("--base", "main").returncode == 0  # from here on the traces are kept, wherever the clone lies
    check = step("Check")
    assert check["env"] == {
        "CONFIG": "${{ inputs.config }}",
        "BASE": "${{ inputs.base }}",
        "ARGS": "${{ inputs.args }}",
    }
    pyproject = clone / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("1 MWh", "1 J"))
    script, summary = tmp_path / "step.sh", tmp_path / "summary.md"
    script.write_text(check["run"])
    summary.write_text("# Other steps\n")
    inputs = {"CONFIG": "pyproject.toml", "BASE": "main", "ARGS": "--jobs 1 classifier"}
    result = subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)],  # as GitHub runs it
        cwd=clone,
        env={**environment, **inputs, "GITHUB_STEP_SUMMARY": str(summary)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 3, result.stderr
    written = summary.read_text()
    assert written.startswith("# Other steps\n## Training cost\n")
    assert "against origin/main" in written
    assert "conv3 doubled" in written


def test_the_action_installs_itself() -> None:
    document = yaml.safe_load((TOP / "action.yml").read_text())
    assert set(document["inputs"]) == {"config", "base", "python-version", "args"}
    assert document["runs"]["using"] == "composite"
    assert all(item.get("shell") == "bash" for item in document["runs"]["steps"] if "run" in item)
    command = shlex.split(step("Install joulecast")["run"])
    assert command[:4] == ["python", "-m", "pip", "install"]
    assert command[-1] == "$GITHUB_ACTION_PATH"


def test_the_hooks_entry_runs_in_a_repository(project: Path, call: Call, environment: dict[str, str]) -> None:
    assert call().returncode == 0  # which keeps the trace
    (hook,) = yaml.safe_load((TOP / ".pre-commit-hooks.yaml").read_text())
    assert (hook["id"], hook["language"], hook["pass_filenames"]) == ("joulecast-check", "system", False)
    result = subprocess.run(
        shlex.split(hook["entry"]), cwd=project / "models", env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "1 model: 1 within budget" in result.stdout
