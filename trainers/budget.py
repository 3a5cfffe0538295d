"""`Budget`: what a training may take, in the place where people train.

    trainer = Trainer(..., callbacks=[joulecast.Budget("2 kWh")])

One object for Lightning, transformers and Keras. The adapters are real subclasses of each framework's own
`Callback`, in modules that import the framework, loaded when it asks.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..estimator.answer.estimate import find_profile
from ..estimator.answer.request import Request
from ..estimator.place.budget import End
from ..estimator.place.site import DEFAULT_PUE
from .terms import OnExceed, Terms, check_choice

if TYPE_CHECKING:
    from ..measure.meters.meter import Meter
    from .loop import Watch

# What a framework asks of a callback first, and no other framework does.
_FIRST_ASKED = {
    "async_safe": "keras",
    "set_model": "keras",
    "on_init_end": "transformers",
    "on_train_begin": "transformers",  # of a callback added later; Keras has set its model by then
    "state_dict": "lightning",
    "state_key": "lightning",
    "setup": "lightning",
}


class Budget:
    """Limits on the energy, CO2e, time or cost of a training: `Budget("2 kWh")`, `Budget("2 kWh", "10 h")`.

    Goes as it is into `callbacks=[...]` of Lightning's Trainer, transformers' Trainer and Keras' `fit`;
    `lightning()`, `transformers()` and `keras()` give the framework's own type; `watch` is for loops
    written by hand.

    Parameters
    ----------
    limits:
        As `estimate --budget` takes them: "2 kWh", "5 kgCO2e", "10 h", "3 USD". Energy, CO2e and cost are
        the building's, the machine's energy times `pue`.
    hardware:
        A profile's name or file, or hardware from the table. None: this machine.
    region, carbon_intensity, pue, price, currency:
        Where it runs, as in `estimate`; `carbon_intensity` in g CO2e per kWh, `price` per kWh.
    at:
        Judge the prediction at the interval's upper end ("high") or the "expected" figure. A run under way
        is stopped when its expected figure breaks a limit.
    on_exceed:
        "raise" BudgetExceeded; "warn" and train all the same; "ask" on a terminal (elsewhere: raise). A run
        that breaks a limit later on is stopped in each case; "warn" then warns instead of raising.
    meter:
        As `measure --meter` takes it ("auto", "rapl", "nvml", "modelled", "none", ...), or an open `Meter`.
    log_every:
        Steps between two forecasts; None: every second at first, rarer as the run grows.
    checkpoint:
        Where Lightning, Keras and `watch` save what trains when it is stopped; None: see docs/trainers.md.

    Raises
    ------
    JoulecastError
        A limit, a choice or hardware that cannot be used.
    """

    def __init__(
        self,
        *limits: str,
        hardware: str | Path | None = None,
        region: str | None = None,
        carbon_intensity: float | None = None,
        pue: float = DEFAULT_PUE,
        price: float | None = None,
        currency: str = "USD",
        at: End = "high",
        on_exceed: OnExceed = "raise",
        meter: str | Meter = "auto",
        log_every: int | None = None,
        checkpoint: str | Path | None = None,
    ) -> None:
        self._options = {name: value for name, value in locals().items() if name not in ("self", "limits")}
        check_choice("at", at, End)
        request = Request(
            hardware=hardware,
            region=region,
            carbon_intensity=carbon_intensity,
            pue=pue,
            price=price,
            currency=currency,
            budget=limits,
            budget_at=at,
        )
        self.terms = Terms(request, on_exceed, meter, log_every, None if checkpoint is None else Path(checkpoint))
        self._callback: Any = None
        if hardware is not None:
            find_profile(request)  # an unknown name shows here, not in the first step

    def __repr__(self) -> str:
        return f"Budget({', '.join(repr(limit.text) for limit in self.terms.limits)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(Budget, **self._options), tuple(limit.text for limit in self.terms.limits)

    # -- the adapters ----------------------------------------------------------------------------

    def lightning(self) -> Any:
        """A `lightning.pytorch.Callback` (of `pytorch_lightning`, where that is what is imported)."""
        from .lightning import LightningBudget

        return LightningBudget(self.terms)

    def transformers(self) -> Any:
        """A `transformers.TrainerCallback`."""
        from .transformers import TransformersBudget

        return TransformersBudget(self.terms)

    def keras(self) -> Any:
        """A `keras.callbacks.Callback`."""
        from .keras import KerasBudget

        return KerasBudget(self.terms)

    def watch(
        self,
        model: Any,
        example_inputs: Any = None,
        *,
        steps: int,
        optimizer: Any = "sgd",
        loss: Callable[[Any], Any] | None = None,
        precision: str | None = None,
        accumulate: int = 1,
        devices: int = 1,
        validations: int = 0,
        validation_batches: int = 0,
        log: Callable[[Mapping[str, float]], None] | None = None,
        save: Callable[[], object] | None = None,
    ) -> Watch:
        """A context manager or decorator for a training loop written by hand, in PyTorch.

            with jc.Budget("2 kWh").watch(model, steps=1000, optimizer=optimizer) as run:
                for ...:
                    ...
                    optimizer.step()
                    run.step()

        `example_inputs` are one batch, as `trace` takes them; without them the model's first call in
        training is looked at, before it computes anything. `steps` are the optimizer steps of the whole run,
        `accumulate` the batches in each. `loss` goes from the model's output to a scalar; `precision` is
        autocast's ("bfloat16", "float16"). `validations` of `validation_batches` each are predicted too:
        put each into `with run.validation():`. `log` takes the figures of every forecast; `save` saves
        what trains when it is stopped and may return where. Raises BudgetExceeded as the terms say.
        """
        from .loop import LoopOptions, Watch
        from .run import Length

        length = Length(steps, accumulate, devices, validations, validation_batches)
        return Watch(self.terms, model, example_inputs, length, LoopOptions(optimizer, loss, precision, log, save))

    # -- standing in for a framework's own callback ----------------------------------------------

    def __getattr__(self, name: str) -> Any:
        """A hook: answered by the callback of the framework that asks."""
        callback = self.__dict__.get("_callback")
        if callback is None or not hasattr(callback, name):
            if name not in _FIRST_ASKED:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            self._callback = callback = getattr(self, _FIRST_ASKED[name])()
        return getattr(callback, name)

    @property  # type: ignore[misc]  # read-only: a Budget stays one
    def __class__(self) -> type:
        """Lightning takes heirs of its own Callback alone: beside a loaded Lightning, this is one.

        A stand-in's way (weakref's proxies and unittest's mocks go it too): `type` still says Budget, and
        `isinstance` holds for both.
        """
        if any(name in sys.modules for name in ("lightning.pytorch", "pytorch_lightning")):
            from .lightning import LightningBudget

            return LightningBudget
        return Budget
