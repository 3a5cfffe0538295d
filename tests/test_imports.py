"""Which folder may import which: lazy imports inside functions and those for type checkers count too."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_TRACE = {"base", "sandbox", "trace"}
_ANSWER = _TRACE | {"cost", "model", "place", "answer"}
# Folders of the estimator by their own names, the other folders by theirs.
ALLOWED = {
    "base": {"base"},
    "sandbox": {"base", "sandbox"},
    "place": {"base", "place"},
    "trace": _TRACE,
    "cost": _TRACE | {"cost"},
    "model": _TRACE | {"model"},
    "fit": _TRACE | {"cost", "fit"},
    "answer": _ANSWER,
    "measure": _ANSWER | {"fit", "measure", "measure/meters"},
    "measure/meters": _ANSWER | {"fit", "measure/meters"},
    "report": _ANSWER | {"report"},
    "check": _ANSWER | {"check"},
    "sweeps": _ANSWER | {"sweeps"},
    "service": _ANSWER | {"service"},
    "trainers": _ANSWER | {"trainers", "measure/meters"},
}
FOLDERS = ("estimator", "measure", "trainers", "check", "report", "sweeps", "service", "cli")


def folder_of(parts: tuple[str, ...]) -> str:
    """("estimator", "cost", "profile") is in "cost", ("measure", "meters", "rapl") in "measure/meters"."""
    if parts[0] == "estimator":
        return parts[1] if len(parts) > 1 else "estimator"
    return "measure/meters" if parts[:2] == ("measure", "meters") else parts[0]


def imports(path: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line and target, from the top of joulecast, of every import of joulecast's own."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules: list[tuple[str, ...]] = []
        if isinstance(node, ast.ImportFrom):
            module = tuple(node.module.split(".")) if node.module else ()
            if node.level:
                module = ("joulecast", *package[: len(package) + 1 - node.level], *module)
            # `from ..estimator import cost` names a folder in what it imports.
            modules = [(*module, alias.name) for alias in node.names] if len(module) < 3 else [module]
        elif isinstance(node, ast.Import):
            modules = [tuple(alias.name.split(".")) for alias in node.names]
        yield from ((node.lineno, module[1:]) for module in modules if module[0] == "joulecast" and module[1:])


def sources() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def test_every_folder_imports_only_what_is_below_it() -> None:
    wrong = []
    for path in sources():
        here = folder_of(path.relative_to(ROOT).with_suffix("").parts)
        for line, target in imports(path):
            if here == "cli" or target[0] not in FOLDERS:
                continue
            if folder_of(target) not in ALLOWED.get(here, {here}):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {'.'.join(target)}")
    assert not wrong, "\n".join(wrong)


def test_every_folder_has_a_rule() -> None:
    assert {folder_of(path.relative_to(ROOT).with_suffix("").parts) for path in sources()} - {"cli"} <= (
        set(ALLOWED) | {"__init__"}
    )


@pytest.mark.parametrize(
    ("line", "target"),
    [
        ("from ..trace.workload import Op", ("estimator", "trace", "workload")),
        ("from ...cli.main import run", ("cli", "main")),
        ("from ... import check", ("check",)),
        ("import joulecast.measure.watch", ("measure", "watch")),
        ("def f():\n    from joulecast.report.page import render", ("report", "page")),
    ],
)
def test_imports_of_all_forms_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, target: str) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    path = tmp_path / "estimator" / "cost" / "profile.py"
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert [found for _, found in imports(path)] == [target]


# Options of other programs.
FOREIGN = ("--query-gpu", "--format=csv", "--to script", "FILE.py --name VALUE")


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every string that is not a docstring."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, documented)]
    plain = {id(line.value) for body in bodies for line in body if isinstance(line, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in plain:
            yield node.lineno, node.value


def test_messages_of_the_core_name_fields_and_no_options() -> None:
    """The command line prints `samples` as --samples; Python and configurations have no options."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} {text!r}"
        for path in sorted((ROOT / "estimator").rglob("*.py"))
        for line, text in texts(ast.parse(path.read_text(encoding="utf-8")))
        if re.search(r"(^|[^\w-])--[a-z]", text) and not any(option in text for option in FOREIGN)
    ]
    assert not wrong, "\n".join(wrong)
