"""`Budget`: limits on a training, as a callback or context manager.

    trainer = Trainer(..., callbacks=[joulecast.Budget("2 kWh")])

One object for Lightning, transformers and Keras. The adapters are subclasses of each framework's own `Callback`, in
modules that import the framework and are loaded when the framework first uses the object.
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

# The attribute that each framework asks a callback for first, and no other framework does.
_FIRST_ASKED = {
    "async_safe": "keras",
    "set_model": "keras",
    "on_init_end": "transformers",
    "on_train_begin": "transformers",  # of a callback added later; Keras has already set its model then
    "state_dict": "lightning",
    "state_key": "lightning",
    "setup": "lightning",
}


class Budget:
    """Limits on the energy, CO2e, time or cost of a training: `Budget("2 kWh")`, `Budget("2 kWh", "10 h")`.

    Pass it directly in `callbacks=[...]` of Lightning's Trainer, transformers' Trainer and Keras' `fit`.
    `lightning()`, `transformers()` and `keras()` give the framework's own type; `watch` is for your own loop.

    Parameters
    ----------
    limits:
        As `budget` of `estimate`: "2 kWh", "5 kgCO2e", "10 h", "3 USD". Energy, CO2e and cost include the building's
        share: the machine's energy times `pue`.
    hardware:
        A profile's name or file, or hardware from the table. None: this machine.
    region, carbon_intensity, pue, price, currency:
        Where it runs, as in `estimate`; `carbon_intensity` in g CO2e per kWh, `price` per kWh.
    at:
        Compare the prediction at the interval's upper end ("high") or the "expected" value. A running training is
        stopped when its expected value exceeds a limit.
    on_exceed:
        "raise" BudgetExceeded; "warn" and train anyway; "ask" on a terminal (elsewhere: raise). A run that exceeds a
        limit later is stopped in each case; with "warn" it warns instead of raising.
    meter:
        As `measure --meter` takes it ("auto", "rapl", "nvml", "modelled", "none", ...), or an open `Meter`.
    log_every:
        Steps between two forecasts; None: every second at first, less often as the run gets longer.
    checkpoint:
        Where Lightning, Keras and `watch` save the training when it is stopped; None: see docs/trainers.md.

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
        """A context manager or decorator for your own training loop in PyTorch.

            with jc.Budget("2 kWh").watch(model, steps=1000, optimizer=optimizer) as run:
                for ...:
                    ...
                    optimizer.step()
                    run.step()

        `example_inputs` are one batch, as `trace` takes them; without them, the model's first call in training is
        traced before it runs. `steps` are the optimizer steps of the whole run, `accumulate` the batches in each.
        `loss` maps the model's output to a scalar; `precision` is autocast's ("bfloat16", "float16"). `validations`
        of `validation_batches` each are predicted too: put each into `with run.validation():`. `log` receives the
        figures of every forecast; `save` saves the training when it is stopped and may return where. Raises
        BudgetExceeded as `on_exceed` says.
        """
        from .loop import LoopOptions, Watch
        from .run import Length

        length = Length(steps, accumulate, devices, validations, validation_batches)
        return Watch(self.terms, model, example_inputs, length, LoopOptions(optimizer, loss, precision, log, save))

    # -- acting as a framework's own callback ----------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        """A hook, forwarded to the callback of the framework that asks."""
        callback = self.__dict__.get("_callback")
        if callback is None or not hasattr(callback, name):
            if name not in _FIRST_ASKED:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            self._callback = callback = getattr(self, _FIRST_ASKED[name])()
        return getattr(callback, name)

    @property  # type: ignore[misc]  # read-only: a Budget stays one
    def __class__(self) -> type:
        """Lightning accepts only subclasses of its own Callback: while Lightning is loaded, this is one.

        weakref's proxies and unittest's mocks do the same: `type` still says Budget, and `isinstance` is true for both.
        """
        if any(name in sys.modules for name in ("lightning.pytorch", "pytorch_lightning")):
            from .lightning import LightningBudget

            return LightningBudget
        return Budget
