"""The body of the loop that code is in, as a function that runs one iteration again.

A script that trains several models has no function that is its step: the step is the body of a loop. Its source is
compiled again, with the variables that the loop had when the script was stopped.
"""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

_STEP, _ITEM = "__one_iteration__", "__item__"
_COUNTS = ("enumerate", "range", "trange", "count")


@dataclass(frozen=True, slots=True)
class LoopBody:
    """One iteration of a loop in a user's file.

    `variables` are those that its code sees, `item` what the loop had taken from its iterable; `counter` is
    the variable that counts the iterations, if there is one.
    """

    line: int
    code: CodeType = field(repr=False)
    variables: Mapping[str, Any] = field(repr=False)
    item: Any = field(repr=False)
    counter: str | None = None

    def run(self, item: Any) -> None:
        """Runs the body with `item` as what the loop takes; the variables stay as they are."""
        names = {**self.variables, _ITEM: item}
        exec(self.code, names)
        names[_STEP]()


def loops_around(frame: FrameType) -> Iterator[LoopBody]:
    """The loops of a frame's code that it is in, innermost first; none where its source cannot be read."""
    code = frame.f_code
    linecache.checkcache(code.co_filename)
    source = "".join(linecache.getlines(code.co_filename))
    try:
        scope = _scope(ast.parse(source), code)
    except SyntaxError:
        return
    variables = {**frame.f_globals, **frame.f_locals}
    for loop in reversed(list(_loops(scope, frame.f_lineno))):
        try:
            item = _value(loop.target, variables) if isinstance(loop, ast.For) else None
        except KeyError:
            continue
        yield LoopBody(loop.lineno, _compiled(loop, code.co_filename), variables, item, _counter(loop))


def with_count(item: Any, number: int) -> Any:
    """`item` of an `enumerate` or a `range` in another iteration."""
    if type(item) is int:
        return number
    return (number, *item[1:]) if isinstance(item, tuple) and item and type(item[0]) is int else item


def _scope(tree: ast.Module, code: CodeType) -> ast.AST:
    """The function that `code` is of, or the file."""
    if code.co_name == "<module>":
        return tree
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == code.co_name:
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            if code.co_firstlineno in (first, node.lineno):
                return node
    raise SyntaxError(code.co_name)


def _loops(scope: ast.AST, line: int) -> Iterator[ast.For | ast.While]:
    """The loops of `scope`, without those of functions in it, whose body has `line`; outermost first."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(node, (ast.For, ast.While)) and node.body[0].lineno <= line <= (node.body[-1].end_lineno or 0):
            yield node
        yield from _loops(node, line)


def _value(target: ast.expr, variables: Mapping[str, Any]) -> Any:
    if isinstance(target, ast.Name):
        return variables[target.id]
    if isinstance(target, (ast.Tuple, ast.List)):
        return tuple(_value(one, variables) for one in target.elts)
    raise KeyError


def _counter(loop: ast.For | ast.While) -> str | None:
    if not isinstance(loop, ast.For):
        return None
    target = loop.target.elts[0] if isinstance(loop.target, ast.Tuple) and loop.target.elts else loop.target
    called = [one.func for one in ast.walk(loop.iter) if isinstance(one, ast.Call)]
    counts = any(getattr(one, "id", getattr(one, "attr", "")) in _COUNTS for one in called)
    return target.id if isinstance(target, ast.Name) and counts else None


def _compiled(loop: ast.For | ast.While, filename: str) -> CodeType:
    """A function with the loop's body, whose variables are those of the code around it."""
    target = loop.target if isinstance(loop, ast.For) else ast.Name("_", ast.Store())
    names = {node.id for node in ast.walk(loop) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    names |= {node.name for node in ast.walk(loop) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in ast.walk(loop):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(one.asname or one.name.partition(".")[0]) for one in node.names}
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
    body = [_AsGlobal().visit(node) for node in loop.body]
    once = ast.For(target, ast.Tuple([ast.Name(_ITEM, ast.Load())], ast.Load()), body, [])
    stated: list[ast.stmt] = [ast.Global(sorted(names))] if names else []
    function = ast.parse(f"def {_STEP}(): pass").body[0]
    assert isinstance(function, ast.FunctionDef)
    function.body = [*stated, once]
    tree = ast.Module([function], [])
    return compile(ast.fix_missing_locations(tree), filename, "exec")


class _AsGlobal(ast.NodeTransformer):
    """`nonlocal x` is `global x`: the variables of the code around the loop are global in the copy."""

    def visit_Nonlocal(self, node: ast.Nonlocal) -> ast.Global:
        return ast.Global(node.names)
