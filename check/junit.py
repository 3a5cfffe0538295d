"""A check as JUnit XML for CI services: an exceeded budget is a failure, a model that cannot be read an error."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from .run import CheckReport, Outcome
from .wording import reasons

# Characters that XML 1.0 does not allow, even escaped: tracebacks may contain terminal colours.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(report: CheckReport) -> str:
    """One test case per model; a model without a budget is skipped."""
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(
        suites,
        "testsuite",
        name="joulecast check",
        tests=str(len(report.outcomes)),
        failures=str(report.count("exceeded")),
        errors=str(report.count("failed")),
        skipped=str(report.count("none")),
        time=f"{sum(outcome.seconds for outcome in report.outcomes):.3f}",
    )
    for outcome in report.outcomes:
        suite.append(_case(outcome, report.config.name))
    ElementTree.indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(suites, encoding="unicode")}\n'


def _case(outcome: Outcome, config: str) -> ElementTree.Element:
    case = ElementTree.Element(
        "testcase", classname=_text(config), name=_text(outcome.name), time=f"{outcome.seconds:.3f}"
    )
    if outcome.failure:
        _add(case, "error", outcome.failure.message, outcome.failure.kind, outcome.failure.frames)
    elif outcome.answer and outcome.answer.exceeded:
        broken = [str(verdict) for verdict in outcome.answer.verdicts if verdict.exceeded]
        because = [f"since the base: {outcome.change}"] if outcome.change else []
        text = "\n".join([*reasons(outcome), *because])
        _add(case, "failure", "; ".join(broken), "BudgetExceeded", text)
    elif outcome.verdict == "none":
        ElementTree.SubElement(case, "skipped", message="no budget")
    return case


def _add(case: ElementTree.Element, tag: str, message: str, kind: str, text: str) -> None:
    element = ElementTree.SubElement(case, tag, message=_text(message), type=kind)
    element.text = _text(text) or None


def _text(text: str) -> str:
    return _FORBIDDEN.sub("", text)
