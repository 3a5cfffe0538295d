"""The journal of a sweep: resumed, cut, foreign and locked files."""

from __future__ import annotations

from pathlib import Path

import pytest

from joulecast.estimator.answer.request import Request
from joulecast.estimator.base.errors import JoulecastError
from joulecast.sweeps.candidates import grid
from joulecast.sweeps.journal import Journal

SOURCE = grid({"width": [1, 2, 3]})
BASE = Request(epochs=1)
RESULTS = [{"index": 2, "asked": {"width": 3}, "row": {"x": 0.1}}, {"index": 0, "asked": {"width": 1}, "error": "ü"}]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "sub" / "out.csv.partial"
    with Journal(path, SOURCE, BASE) as journal:
        journal.write(RESULTS)
    return path


def test_results_are_found_again_in_the_order_of_candidates(path: Path) -> None:
    with Journal(path, SOURCE, BASE) as journal:
        assert len(journal) == 2
        assert [0 in journal, 1 in journal, 2 in journal, 3 in journal] == [True, False, True, False]
        assert list(journal) == [RESULTS[1], RESULTS[0]]
        with pytest.raises(KeyError):
            journal[1]
        journal.write([{"index": 1, "asked": {}, "row": {}}])
        assert [one["index"] for one in journal] == [0, 1, 2]
    assert not list(path.parent.glob("*.lock"))


def test_a_file_cut_at_any_byte_loses_whole_results_only(path: Path) -> None:
    whole = path.read_bytes()
    ends = [end + 1 for end, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        with Journal(path, SOURCE, BASE) as journal:
            assert len(journal) == sum(size >= end for end in ends[1:])
            journal.write([{"index": 5, "asked": {}, "row": {}}])
            assert journal[5] == {"index": 5, "asked": {}, "row": {}}


@pytest.mark.parametrize(
    ("source", "base", "what"),
    [(grid({"width": [1, 2]}), BASE, "candidates"), (SOURCE, Request(epochs=2), "options")],
)
def test_another_sweep_does_not_go_on_with_it(path: Path, source: object, base: Request, what: str) -> None:
    with pytest.raises(JoulecastError, match=f"a stopped sweep with other {what}"), Journal(path, source, base):  # type: ignore[arg-type]
        pass


def test_another_version_does_not_go_on_with_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joulecast.sweeps.journal.__version__", "9.9")
    with pytest.raises(JoulecastError, match="a stopped sweep with other joulecast"), Journal(path, SOURCE, BASE):
        pass


@pytest.mark.parametrize("text", ["hello\n", '{"schema": "other/1"}\n', "[]\n"])
def test_a_file_that_is_no_journal_is_left_as_it_is(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(JoulecastError, match="is not the journal of a sweep"), Journal(path, SOURCE, BASE):
        pass
    assert path.read_text() == text


def test_a_damaged_line_in_the_middle(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], "{}\n", lines[2]]))
    with pytest.raises(JoulecastError, match=r"partial:2 is not a result"), Journal(path, SOURCE, BASE):
        pass


def test_two_sweeps_do_not_write_one_journal(path: Path) -> None:
    with Journal(path, SOURCE, BASE):  # noqa: SIM117
        with pytest.raises(JoulecastError, match="belongs to a sweep that runs"), Journal(path, SOURCE, BASE):
            pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JoulecastError, match="cannot be written"), Journal(tmp_path / "file" / "x", SOURCE, BASE):
        pass
