"""`joulecast.Cost` on its own and in real searches."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

import joulecast as jc
from joulecast.estimator.base.errors import JoulecastError


@pytest.fixture
def cost(net: str) -> jc.Cost:
    return jc.Cost("rtx-4090", model=net, inputs="16", samples=100, epochs=2)


def test_a_call_is_the_figure_of_the_answer(cost: jc.Cost, net: str) -> None:
    own = jc.estimate(net, "16", samples=100, epochs=2, hardware="rtx-4090", model_args={"width": "4"}, batch_size=8)
    assert cost(width=4, batch_size=8) == own.energy_kwh.value
    assert cost.answer(width=4, batch_size=8).co2e_kg == own.co2e_kg


@pytest.mark.parametrize(
    ("of", "name", "end"),
    [("co2e", "co2e_kg", "value"), ("time", "seconds", "value"), ("energy_kwh_high", "energy_kwh", "high")],
)
def test_what_a_call_returns(net: str, of: str, name: str, end: str) -> None:
    cost = jc.Cost("t4", model=net, inputs="16", samples=100, epochs=2, of=of)
    assert cost(width=4) == getattr(getattr(cost.answer(width=4), name), end)


def test_a_model_is_traced_once(cost: jc.Cost, monkeypatch: pytest.MonkeyPatch) -> None:
    cost(width=4)
    monkeypatch.setattr(cost._kept, "_read", lambda request: pytest.fail("traced again"))
    assert cost(width=4, epochs=4, hardware="t4") > 0
    assert cost(width=4, epochs=4) == pytest.approx(2 * cost(width=4), rel=0.02)


def test_a_copy_in_a_process_of_another_folder_finds_the_model(
    net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searches send the function to their workers, and Ray Tune runs each trial in a folder of its own."""
    file, _, name = net.rpartition(":")
    monkeypatch.chdir(Path(file).parent)
    here = jc.Cost("t4", model=f"{Path(file).name}:{name}", inputs="16", samples=100, epochs=2, of="co2e")
    assert here(width=4) > 0
    there = pickle.loads(pickle.dumps(here))
    monkeypatch.chdir(tmp_path)
    assert len(there._kept._workloads) == 0
    assert there(width=4) == here(width=4)


def test_mistakes(cost: jc.Cost, net: str) -> None:
    with pytest.raises(JoulecastError, match="rtx"):
        jc.Cost("rtx-40900")
    with pytest.raises(JoulecastError, match="widht"):
        cost(widht=4)
    with pytest.raises(JoulecastError, match="`of` 'profile' is not a figure"):
        jc.Cost("t4", model=net, inputs="16", steps=1, of="profile")(width=4)


def test_in_an_optuna_study_with_a_constraint(cost: jc.Cost) -> None:
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    limit = cost(width=32)

    def objective(trial: object) -> float:
        width = trial.suggest_categorical("width", [8, 16, 32, 4096, 8192])  # type: ignore[attr-defined]
        if cost(width=width) > limit:
            raise optuna.TrialPruned
        return float(width)

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=15)
    assert study.best_params == {"width": 32}


def test_in_a_search_of_scikit_learn(cost: jc.Cost) -> None:
    from sklearn.base import BaseEstimator
    from sklearn.model_selection import GridSearchCV

    class Net(BaseEstimator):  # type: ignore[misc]
        def __init__(self, width: int = 8) -> None:
            self.width = width

        def fit(self, x: object, y: object) -> Net:
            self.classes_ = [0, 1]
            return self

    def cheapness(model: Net, x: object, y: object) -> float:
        return -cost(**model.get_params())

    search = GridSearchCV(Net(), {"width": [8192, 4, 64]}, scoring=cheapness, cv=2, n_jobs=1)
    assert search.fit([[0], [1], [0], [1]], [0, 1, 0, 1]).best_params_ == {"width": 4}


def test_notes_of_a_parallel_configuration(net: str, tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text('{"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}}')
    cost = jc.Cost(model=net, inputs="16", steps=1, cluster="dgx-h100", parallel_config=str(path))
    assert any(note.startswith("offload_param of the DeepSpeed file") for note in cost.answer(width=4).warnings)
