"""joulecast: the energy, CO2e, time and cost of a training run, before its first step.

import joulecast as jc

answer = jc.estimate(model, inputs, epochs=100, samples=50_000, hardware="rtx-4090", region="FR", budget="2 kWh")
answer.energy_kwh.value, answer.co2e_kg.value, answer.exceeded, answer.to_frame()

work = jc.trace(model, inputs, train=True, optimizer="sgd")  # the steps of `estimate`, one by one
prediction = jc.load_profile("rtx-4090").predict(work, steps=39_100)
prediction.energy_kwh.value, prediction.energy_kwh.low, prediction.energy_kwh.high
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from joulecast.estimator.answer.answer import Answer as Answer
    from joulecast.estimator.answer.estimate import answer as answer
    from joulecast.estimator.answer.estimate import estimate as estimate
    from joulecast.estimator.answer.request import Request as Request
    from joulecast.estimator.base.errors import FitError as FitError
    from joulecast.estimator.base.errors import HardwareError as HardwareError
    from joulecast.estimator.base.errors import JoulecastError as JoulecastError
    from joulecast.estimator.base.errors import ModelError as ModelError
    from joulecast.estimator.base.errors import ProfileError as ProfileError
    from joulecast.estimator.base.errors import RequestError as RequestError
    from joulecast.estimator.base.interval import Interval as Interval
    from joulecast.estimator.cost.estimate import Estimate as Estimate
    from joulecast.estimator.cost.estimate import Share as Share
    from joulecast.estimator.cost.library import load_profile as load_profile
    from joulecast.estimator.cost.profile import Profile as Profile
    from joulecast.estimator.fit.fit import fit as fit
    from joulecast.estimator.fit.observation import Observation as Observation
    from joulecast.estimator.trace.formulas import register_op as register_op
    from joulecast.estimator.trace.trace import trace as trace
    from joulecast.estimator.trace.workload import Layer as Layer
    from joulecast.estimator.trace.workload import Op as Op
    from joulecast.estimator.trace.workload import Workload as Workload
    from joulecast.measure.records.export import records as records
    from joulecast.sweeps.objective import Cost as Cost
    from joulecast.sweeps.run import sweep as sweep
    from joulecast.trainers.budget import Budget as Budget
    from joulecast.trainers.terms import BudgetExceeded as BudgetExceeded

__version__ = "0.1.0"

# Loaded on first use, so that `import joulecast` costs nothing and `estimate --help` loads no torch.
_HOMES = {
    "Answer": "estimator.answer.answer",
    "Budget": "trainers.budget",
    "BudgetExceeded": "trainers.terms",
    "Cost": "sweeps.objective",
    "Estimate": "estimator.cost.estimate",
    "FitError": "estimator.base.errors",
    "HardwareError": "estimator.base.errors",
    "Interval": "estimator.base.interval",
    "JoulecastError": "estimator.base.errors",
    "Layer": "estimator.trace.workload",
    "ModelError": "estimator.base.errors",
    "Observation": "estimator.fit.observation",
    "Op": "estimator.trace.workload",
    "Profile": "estimator.cost.profile",
    "ProfileError": "estimator.base.errors",
    "Request": "estimator.answer.request",
    "RequestError": "estimator.base.errors",
    "Share": "estimator.cost.estimate",
    "Workload": "estimator.trace.workload",
    "answer": "estimator.answer.estimate",
    "estimate": "estimator.answer.estimate",
    "fit": "estimator.fit.fit",
    "load_profile": "estimator.cost.library",
    "records": "measure.records.export",
    "register_op": "estimator.trace.formulas",
    "sweep": "sweeps.run",
    "trace": "estimator.trace.trace",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'joulecast' has no attribute {name!r}")
    return getattr(importlib.import_module(f"joulecast.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
