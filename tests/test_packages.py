"""pyproject.toml installs every package and data file of the repository: a wheel lacks what it does not list."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
FOLDERS = {name: folder for name, folder in SETUPTOOLS["package-dir"].items() if name}


def test_every_folder_of_code_is_a_package_of_the_wheel() -> None:
    found = {"joulecast", *FOLDERS}
    for name, folder in FOLDERS.items():
        for init in (TOP / folder).rglob("__init__.py"):
            found.add(".".join([name, *init.parent.relative_to(TOP / folder).parts]))
    assert set(SETUPTOOLS["packages"]) == found


def test_every_file_that_is_not_code_is_data_of_its_package() -> None:
    listed = subprocess.run(["git", "ls-files", *FOLDERS.values()], cwd=TOP, capture_output=True, text=True)
    if listed.returncode or not listed.stdout:
        pytest.skip("not a git checkout")
    lacking = []
    for name, folder in FOLDERS.items():
        patterns = SETUPTOOLS["package-data"].get(name, [])
        for line in listed.stdout.split():
            if line.startswith(f"{folder}/") and not line.endswith(".py"):
                path = line.removeprefix(f"{folder}/")
                if not any(fnmatch(path, one) and path.count("/") == one.count("/") for one in patterns):
                    lacking.append(line)
    assert lacking == []


# What a requirement is imported as, where that differs from its name.
MODULES = {
    "pyyaml": "yaml",
    "prometheus-client": "prometheus_client",
    "scikit-learn": "sklearn",
    "nvidia-ml-py": "pynvml",
}
# Not declared by themselves: torchmetrics comes with Lightning, huggingface_hub with transformers; timm is the user's.
OPTIONAL = {"huggingface_hub", "timm", "torchmetrics"}


def test_every_import_is_declared_and_every_dependency_is_imported() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    required = {_module(text) for text in project["dependencies"]}
    offered = {_module(text) for name, texts in extras.items() if name != "test" for text in texts}
    imported = set().union(*(_imports(path) for folder in FOLDERS.values() for path in (TOP / folder).rglob("*.py")))
    imported -= set(sys.stdlib_module_names) | {"joulecast"}
    assert imported <= required | offered | OPTIONAL
    assert required <= imported


def _module(requirement: str) -> str:
    name = re.match(r"[\w-]+", requirement)
    assert name
    return MODULES.get(name[0], name[0])


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found
