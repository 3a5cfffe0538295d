"""The pages agree with the product: their links lead somewhere, and options, keys and names are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import joulecast as jc
from joulecast.check.config import _MODEL
from joulecast.cli.main import load_command

TOP = Path(__file__).parents[1]
PAGES = [*sorted((TOP / "docs").glob("*.md")), TOP / "README.md", TOP / "CONTRIBUTING.md", TOP / "benchmarks/README.md"]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http:", "https:")):
            continue
        name, _, anchor = target.partition("#")
        other = page.parent / name if name else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


@pytest.mark.parametrize("command", ["estimate", "check", "sweep", "serve", "fit"])
def test_every_option_of_a_command_is_explained(command: str) -> None:
    names = {option for parameter in load_command(command).params for option in parameter.opts if option[:2] == "--"}
    assert {name for name in names if not re.search(rf"{name}(?![\w-])", TEXT)} == set()


def test_every_key_of_a_checks_configuration_is_explained() -> None:
    text = (TOP / "docs/check.md").read_text(encoding="utf-8")
    assert {key for key in _MODEL if f"`{key}`" not in text} == set()


def test_every_key_of_an_answer_is_explained() -> None:
    answer = jc.estimate(
        nn.Linear(4, 2), torch.zeros(8, 4), steps=10, samples=80, cluster="2xdgx-h100", budget="1 kWh", regions="FR",
        device_hour=2.0, embodied=True, idle_hosts=1, hardware="h100-sxm",
    )  # fmt: skip
    text = (TOP / "docs/formats.md").read_text(encoding="utf-8")
    assert {key for key in keys(answer.to_json(layers=True)) if not re.search(rf"`{key}`", text)} == set()


def keys(value: object) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(keys, value))
    return set(value).union(*map(keys, value.values())) if isinstance(value, dict) else set()


def test_every_public_name_in_the_pages_exists() -> None:
    for name in set(re.findall(r"\bjc\.([A-Za-z]\w*)", TEXT)):
        assert hasattr(jc, name), name
