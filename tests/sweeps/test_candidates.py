"""Candidates from grids, files, functions, studies and search spaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from joulecast.estimator.answer.request import Request
from joulecast.estimator.base.errors import JoulecastError, RequestError
from joulecast.sweeps.candidates import candidate, from_python, grid, literal, parse_axes, read_candidates


def given(source: Any) -> list[dict[str, Any]]:
    return [dict(one) for one in source.given]


def test_a_grid_is_all_combinations_with_the_last_axis_fastest() -> None:
    found = grid({"width": [64, 128], "hardware": ["v100", "t4"]})
    assert found.total == 4
    expected = [(64, "v100"), (64, "t4"), (128, "v100"), (128, "t4")]
    assert given(found) == [{"width": width, "hardware": name} for width, name in expected]
    assert given(found) == given(found)  # it can be read again


@pytest.mark.parametrize(
    ("text", "value"),
    [("64", 64), ("0.5", 0.5), ("true", True), ("False", False), ("None", None), ("relu", "relu"), ("1e", "1e")],
)
def test_texts_become_the_values_that_they_spell(text: str, value: Any) -> None:
    found = literal(text)
    assert found == value
    assert type(found) is type(value)


def test_axes_of_the_command_line() -> None:
    texts = ["width=64,128", "batch-size=32", "act=relu, gelu"]
    assert parse_axes(texts) == {"width": [64, 128], "batch_size": [32], "act": ["relu", "gelu"]}


@pytest.mark.parametrize("text", ["width", "=1", "width=", "width= "])
def test_an_axis_without_name_or_values(text: str) -> None:
    with pytest.raises(RequestError, match="is not NAME=VALUE,VALUE"):
        parse_axes([text])


def test_an_axis_given_twice() -> None:
    with pytest.raises(RequestError, match="width is given twice"):
        parse_axes(["width=1", "width=2"])


def test_fields_of_a_request_are_set_and_other_names_are_arguments_of_the_model(net: str) -> None:
    base = Request(model=net, inputs="16", epochs=1, samples=10, model_args={"depth": "2"})
    found = candidate(
        3, {"width": 64, "act": "relu", "batch_size": 16, "hardware": 4090, "accuracy": 0.9}, ["accuracy"]
    )
    request = found.request(base)
    assert request.model_args == {"depth": "2", "width": "64", "act": "'relu'"}
    assert (request.batch_size, request.hardware, request.epochs) == (16, "4090", 1)
    assert found.asked["accuracy"] == 0.9


def test_options_that_are_spelt_otherwise_on_the_command_line(base: Request) -> None:
    assert candidate(0, {"input": "32", "time_limit": 5}).request(base).inputs == "32"
    assert candidate(0, {"time_limit": 5}).request(base).time_limit_s == 5
    assert candidate(0, {"model_args": {"width": 3}}).request(base).model_args == {"width": "3"}


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"regions": "FR"}, "`regions` is one for the whole sweep"),
        ({"train": "yes"}, "`train` 'yes' is not true or false"),
        ({"model_args": 3}, "`model_args` 3 is not an object"),
        ({"batch_size": "many"}, "batch_size"),
        ({"optimizer": "sgdd"}, "sgdd"),
    ],
)
def test_values_that_cannot_be_used(base: Request, values: dict[str, Any], error: str) -> None:
    with pytest.raises(JoulecastError, match=error):
        candidate(0, values).request(base)


def test_a_jsonl_file_is_an_object_a_line(lines: Path) -> None:
    found = read_candidates(str(lines))
    assert found.total == 2
    assert given(found) == [{"width": 4, "accuracy": 0.7}, {"width": 8, "batch_size": 16, "accuracy": 0.9}]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"a": 1}\n{"a": ', r"candidates.jsonl:2 is not JSON"),
        ("[1]\n", r"candidates.jsonl:1 is a list"),
        ("[" * 100_000, r"candidates.jsonl:1 is not JSON"),
    ],
)
def test_lines_that_are_no_objects(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "candidates.jsonl"
    path.write_text(text)
    with pytest.raises(JoulecastError, match=error):
        given(read_candidates(str(path)))


PYTHON = """
import helper
widths = helper.WIDTHS
def several():
    yield from ({"width": width} for width in widths)
def broken():
    yield {"width": 1}
    raise ValueError("no more")
listed = [{"width": 1}, 3]
space = {"width": [1, 2]}
number = 5
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text("WIDTHS = (3, 5)\n")
    path = tmp_path / "mine.py"
    path.write_text(PYTHON)
    return path


def test_a_function_of_a_python_file_that_imports_its_neighbour(python: Path) -> None:
    found = read_candidates(f"{python}:several")
    assert found.total is None
    assert given(found) == given(found) == [{"width": 3}, {"width": 5}]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (":broken", "ValueError: no more"),
        (":listed", "candidate 1 is a int"),
        (":number", "is a int: give a function"),
        (":severel", "has no severel; did you mean several"),
        ("", "does not say what makes the candidates"),
    ],
)
def test_python_files_that_make_no_candidates(python: Path, name: str, error: str) -> None:
    with pytest.raises(JoulecastError, match=error):
        given(read_candidates(f"{python}{name}"))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(JoulecastError, match="is not a file"):
        read_candidates(str(tmp_path / "none.jsonl"))
    with pytest.raises(JoulecastError, match="is not a file"):
        read_candidates(f"{tmp_path / 'none.py'}:space")


def test_an_iterator_is_read_once_and_kept() -> None:
    found = from_python(iter([{"width": 1}, {"width": 2}]))
    assert given(found) == given(found) == [{"width": 1}, {"width": 2}]


def test_the_trials_of_an_optuna_study_with_their_values_as_columns() -> None:
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial({"width": 3})
    study.optimize(lambda trial: trial.suggest_int("width", 1, 9) / 10, n_trials=1)
    study.enqueue_trial({"width": 4})
    found = from_python(study)
    assert given(found) == [{"width": 3, "value": 0.3}, {"width": 4}]
    assert found.columns == ("value",)


def test_a_study_without_trials() -> None:
    optuna = pytest.importorskip("optuna")
    with pytest.raises(JoulecastError, match="has no trials"):
        from_python(optuna.create_study())


def test_a_ray_tune_search_space_is_its_grid_with_one_draw_of_each_sampled_value() -> None:
    tune = pytest.importorskip("ray.tune")
    found = from_python({"width": tune.grid_search([4, 8]), "batch_size": tune.choice([16, 32]), "epochs": 3})
    assert found.total == 2
    assert [one["width"] for one in given(found)] == [4, 8]
    assert {one["batch_size"] for one in given(found)} <= {16, 32}
    assert {one["epochs"] for one in given(found)} == {3}
