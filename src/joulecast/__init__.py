"""joulecast: the energy, CO2e, time and cost of a training run, before its first step.

import joulecast as jc

work = jc.trace(model, inputs, train=True, optimizer="sgd")
estimate = jc.load_profile("quadro-rtx-6000").predict(work, steps=39_100)
estimate.energy_kwh.value, estimate.energy_kwh.low, estimate.energy_kwh.high
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from joulecast.estimator.base.errors import FitError as FitError
    from joulecast.estimator.base.errors import HardwareError as HardwareError
    from joulecast.estimator.base.errors import JoulecastError as JoulecastError
    from joulecast.estimator.base.errors import ModelError as ModelError
    from joulecast.estimator.base.errors import ProfileError as ProfileError
    from joulecast.estimator.base.interval import Interval as Interval
    from joulecast.estimator.cost.estimate import Estimate as Estimate
    from joulecast.estimator.cost.estimate import Share as Share
    from joulecast.estimator.cost.library import load_profile as load_profile
    from joulecast.estimator.cost.profile import Profile as Profile
    from joulecast.estimator.fit.fit import fit as fit
    from joulecast.estimator.fit.observation import Observation as Observation
    from joulecast.estimator.trace.trace import trace as trace
    from joulecast.estimator.trace.workload import Layer as Layer
    from joulecast.estimator.trace.workload import Op as Op
    from joulecast.estimator.trace.workload import Workload as Workload
    from joulecast.trainers.budget import Budget as Budget
    from joulecast.trainers.terms import BudgetExceeded as BudgetExceeded

__version__ = "0.1.0"

# Loaded on first use, so that `import joulecast` costs nothing and `estimate --help` loads no torch.
_HOMES = {
    "Budget": "trainers.budget",
    "BudgetExceeded": "trainers.terms",
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
    "Share": "estimator.cost.estimate",
    "Workload": "estimator.trace.workload",
    "fit": "estimator.fit.fit",
    "load_profile": "estimator.cost.library",
    "trace": "estimator.trace.trace",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'joulecast' has no attribute {name!r}")
    return getattr(importlib.import_module(f"joulecast.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
