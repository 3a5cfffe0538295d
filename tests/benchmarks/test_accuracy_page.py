"""docs/accuracy.md, which `benchmarks/accuracy.py` writes."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_ends_with_the_notes_that_it_is_written_from() -> None:
    """An edit of the page alone would be lost when the benchmark writes it again."""
    notes = (ROOT / "benchmarks" / "accuracy_notes.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8")
    assert page.rstrip().endswith(notes.rstrip())
