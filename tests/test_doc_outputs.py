"""What the pages print is what the commands print now.

After a change of figures, `JOULECAST_WRITE_DOCS=1 python -m pytest -n 0 tests/test_doc_outputs.py` writes the new
numbers into the pages: each line of a page is replaced by the line of the output that differs from it in numbers only.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from joulecast.cli.estimate import estimate

TOP = Path(__file__).parents[1]
WRITES = bool(os.environ.get("JOULECAST_WRITE_DOCS"))
FOR_PAPERS = "estimate --model models/simplenet.py --dataset cifar10 --epochs 100 --hardware rtx-3090 --region FR"
BLOCKS = {
    "the first screen": ("README.md", r"```console\n\$ (estimate [^\n]*)\n(.*?)```", ""),
    "a model card": ("docs/papers.md", r"```yaml\n(.*?)```", f"{FOR_PAPERS} --format modelcard"),
    "a table": ("docs/papers.md", r"```latex\n(.*?)```", f"{FOR_PAPERS} --model models/alexnet.py --format latex"),
    "a citation": ("docs/papers.md", r"```bibtex\n(.*?)```", f"{FOR_PAPERS} --format bibtex"),
    "CodeCarbon": ("docs/papers.md", r"```\n(timestamp,.*?)```", f"{FOR_PAPERS} --format codecarbon"),
    "regions": (
        "docs/papers.md",
        r"```\n(The same energy.*?)```",
        f"{FOR_PAPERS} --regions FR,SE,US-CA --budget 40gCO2e",
    ),
}
ONCE = re.compile(r"^\d{4}-\d\d-\d\dT[\d:]+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # another in each run


def printed(command: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(TOP)
    monkeypatch.setenv("COLUMNS", "400" if "--regions" in command else "110")  # papers.md does not wrap the sources
    done = CliRunner().invoke(estimate, shlex.split(command)[1:])
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


@pytest.mark.parametrize(("page", "pattern", "command"), BLOCKS.values(), ids=BLOCKS)
def test_the_page_has_what_the_command_prints(
    page: str, pattern: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = TOP / page
    text = path.read_text(encoding="utf-8")
    block = re.search(pattern, text, re.DOTALL)
    assert block is not None
    own = command or block[1]
    output = printed(own, monkeypatch)
    known = {ONCE.sub("", line) for line in output}
    by_words = {words(line): line for line in reversed(output)}
    wrong = {}
    for line in block[block.lastindex or 0].splitlines():
        if line.strip() not in ("", "...") and ONCE.sub("", line) not in known:
            wrong[line] = by_words.get(words(line), "")
    if WRITES and all(wrong.values()):
        start, end = block.span(block.lastindex or 0)
        lines = (wrong.get(line, line) for line in text[start:end].split("\n"))
        path.write_text(text[:start] + "\n".join(lines) + text[end:], encoding="utf-8")
    else:
        assert not wrong, f"{page}: not printed by `{own}`; see this file's docstring"


def words(line: str) -> str:
    """The line without its numbers and its spaces."""
    return re.sub(r"[\d.,]+|\s+|e-\d+", "", ONCE.sub("", line))
