"""One watched training: predicted, metered, forecast as it runs, and stopped if it exceeds its budget."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..estimator.base.interval import Interval
from ..estimator.base.units import JOULES_PER_KWH, joules_to_kwh
from ..estimator.place.budget import BudgetVerdict, Limit, epochs_that_fit
from ..estimator.place.schedule import Schedule
from .energy import Energy
from .forecast import Forecast, Prediction, Samples, corrected, energy_j, from_now, seconds_to_come
from .messages import prediction_line, result_line
from .terms import BudgetExceeded, Terms

if TYPE_CHECKING:
    from ..estimator.answer.answer import Answer
    from ..estimator.cost.estimate import Estimate
    from ..estimator.trace.workload import Workload

LOGGER = logging.getLogger("joulecast")

# A forecast can stop a run only after this many steps beyond the warm-up.
SETTLED_STEPS = 5
# Watts are averaged over seconds; the first reading is the warm-up, whatever its length.
_FIRST_READING_S = 1e-9
# A forecast every second at first and twice per percent of the elapsed time later; together they never take more
# than `_COST_SHARE` of the time.
_EVERY_S, _EVERY_SHARE, _COST_SHARE = 1.0, 0.005, 0.001
# Processes that train together must agree at the same step; a clock would differ between them.
_EVERY_STEPS = 50


@dataclass(frozen=True, slots=True)
class Peers:
    """The processes that train together: whether this is the first, how many there are, and how they agree.

    `agree` returns in every process what the first one passed; all must call it at the same step.
    """

    first: bool = True
    count: int = 1
    agree: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True, slots=True)
class Length:
    """The length of a run: optimizer `steps` (None: unknown), each of `accumulation` batches on each of `devices`.

    It is validated `validations` times, on `validation_batches` batches per device each time.
    """

    steps: int | None
    accumulation: int = 1
    devices: int = 1
    validations: int = 0
    validation_batches: int = 0


class Run:
    """One training. Adapters call, in this order: `predict`, `start`, `step` and validations, `finish`, `settle`.

    Only an exceeded budget raises. A failure of joulecast is logged once, its figures are missing from then on, and
    training continues. `length` may be a function that returns it. `log` receives the figures of a forecast, every
    `log_every` steps unless the terms say otherwise. `stopping` is the reason to stop the training; the adapter stops
    it in the framework's own way.
    """

    def __init__(
        self,
        terms: Terms,
        length: Length | Callable[[], Length],
        *,
        log: Callable[[Mapping[str, float]], None] | None = None,
        log_every: int | None = None,
        peers: Peers | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.terms, self.peers = terms, peers or Peers()
        self.stopping: BudgetExceeded | None = None
        self.answer: Answer | None = None
        self.prediction: Prediction | None = None
        self.forecast: Forecast | None = None
        self._log, self._clock = log, clock
        self._complaints: set[str] = set()
        self.length = length if isinstance(length, Length) else self._asked(length)
        self._waived: set[Limit] = set()  # known to be exceeded, and accepted
        self._doubtful: set[Limit] = set()
        self._energy = Energy(terms.meter, self.complain)
        self._steps = Samples(warm_up_steps(self.length.steps))
        self._validations, self._watts = Samples(), Samples(_FIRST_READING_S)
        self._began = self._last = 0.0
        self._joules = (0.0, 0.0)  # time and value of the latest reading
        self._every = terms.log_every or (_EVERY_STEPS if self.peers.count > 1 else None)
        self._log_every = terms.log_every or log_every or 1
        self._due, self._log_due = float(self._steps.warm_up), float(self._log_every)
        self._state = "new"  # then "running", then "over"

    @property
    def estimate(self) -> Estimate | None:
        """What was predicted before the first step; None before that, and if the prediction failed."""
        return self.answer.estimate if self.answer else None

    def _asked(self, length: Callable[[], Length]) -> Length:
        try:
            return length()
        except Exception as error:
            self.complain("the number of steps", error)
            return Length(None)

    # -- before the first step -------------------------------------------------------------------

    def predict(self, read: Callable[[], Workload]) -> None:
        """Predicts the run from the workload of one optimizer step and compares it with the limits.

        Raises BudgetExceeded if it does not fit and the terms do not accept that.
        """
        try:
            self._predict(read())
        except Exception as error:
            self.complain("the prediction", error)
        if self.answer is not None:
            self._compare_prediction(self.answer)

    def _predict(self, work: Workload) -> None:
        from ..estimator.answer.estimate import find_profile, priced

        length, request = self.length, self.terms.request
        profile = find_profile(request)
        running = replace(profile, startup_s=0.0)
        step = running.predict(work, devices=length.devices)
        share = length.validation_batches / length.accumulation  # the workload contains all batches of a step
        self.prediction = Prediction(
            step_s=step.seconds,
            watts=step.energy_kwh * (JOULES_PER_KWH / step.seconds.value),
            validation_s=running.predict(work.forward_only()).seconds * share if share else None,
        )
        if length.steps is None:
            self._say(f"{work.name}: the number of steps is unknown; the budget is compared with what is used")
            return
        schedule = Schedule(
            steps=length.steps,
            batch_size=work.batch_size,
            devices=length.devices,
            validation_steps=math.ceil(length.validations * share),
        )
        request = replace(request, model=work, steps=length.steps, devices=length.devices)
        self.answer = priced(request, work, profile, schedule=schedule)
        self._say(prediction_line(self.answer, self._energy))
        if self.answer.warnings:
            self._warn(f"notes on this prediction: {'; '.join(self.answer.warnings)}")

    def _compare_prediction(self, answer: Answer) -> None:
        broken = [verdict for verdict in answer.verdicts if verdict.exceeded]
        if not broken:
            return
        worst, steps = max(broken, key=lambda verdict: verdict.excess_percent), answer.schedule.steps
        fitting = epochs_that_fit(worst, steps)
        error = BudgetExceeded(worst, f"predicted before the first of {steps:,} steps, {fitting:,} of which would fit")
        wanted = self.terms.on_exceed == "warn"
        if self.terms.on_exceed == "ask":
            wanted = self.peers.agree(self.peers.first and _confirmed(str(error)))
        if not wanted:
            self.finish()
            raise error
        self._waived.update(verdict.limit for verdict in broken)
        self._warn(str(error))

    # -- while it trains -------------------------------------------------------------------------

    def start(self) -> None:
        """Starts counting time and energy, just before the first step. Later calls do nothing."""
        if self._state == "new":
            self._state = "running"
            self._energy.start()
            self._began = self._last = self._clock()

    def step(self, steps: int = 1) -> bool:
        """Counts `steps` more steps. Returns whether the training should be stopped."""
        if self._state != "running":
            self.start()
        now = self._clock()
        self._steps.add(now - self._last, steps)
        self._last = now
        if self._steps.units >= self._due:
            self._check(now)
        return self.stopping is not None

    def figures(self) -> dict[str, float]:
        """The current forecast, by the names it is logged under; empty if it fails."""
        try:
            return figures_of(self._forecast(self._clock(), self._steps_left(), self._validations_left()))
        except Exception as error:
            self.complain("the forecast", error)
            return {}

    def validation_begins(self) -> None:
        self._last = self._clock()

    def validation_ends(self) -> None:
        now = self._clock()
        self._validations.add(now - self._last)
        self._last = now

    def stopped(self, checkpoint: object | None) -> None:
        """Records that the training was stopped; `checkpoint` says where its state was saved, None if it was not."""
        if self.stopping is not None and checkpoint is not None:
            self.stopping = BudgetExceeded(self.stopping.verdict, self.stopping.when, str(checkpoint))

    def _check(self, now: float) -> None:
        """Makes a forecast, logs it and compares it with the limits."""
        try:
            self.forecast = self._forecast(now, self._steps_left(), self._validations_left())
            self._compare_forecast(self.forecast)
            if self._steps.units >= min(self._log_due, self.length.steps or math.inf):
                self._logged(self.forecast)
                self._log_due = (self._steps.units // self._log_every + 1) * self._log_every
        except Exception as error:
            self.complain("the forecast", error)
        if self.peers.count > 1:
            self.stopping = self.peers.agree(self.stopping)
        self._due = self._next_due(self._clock() - now)

    def _next_due(self, cost_s: float) -> float:
        """The step of the next forecast: a multiple of the terms' `log_every`, else by time; at most the last step."""
        done, last = self._steps.units, self.length.steps or math.inf
        last = last if last > done else math.inf
        if self._every:
            return min(last, (done // self._every + 1) * self._every)
        elapsed_s = self._last - self._began
        wait_s = max(_EVERY_S, _EVERY_SHARE * elapsed_s, cost_s / _COST_SHARE)
        return min(last, done + max(1.0, wait_s * done / elapsed_s if elapsed_s > 0 else 1.0))

    def _steps_left(self) -> int | None:
        return None if self.length.steps is None else max(0, self.length.steps - int(self._steps.units))

    def _validations_left(self) -> int:
        return max(0, self.length.validations - int(self._validations.units))

    def _forecast(self, now: float, left: int | None, validations_left: int) -> Forecast:
        so_far_s = now - self._began
        joules = self._metered(so_far_s)
        rest = None
        if left is not None:
            rest = seconds_to_come(self.prediction, self._steps, left, self._validations, validations_left)
        watts = corrected(self.prediction.watts if self.prediction else None, self._watts.pace())
        whole_j = energy_j(joules, so_far_s, rest, watts)
        label = self._energy.label
        if label == "missing" and self.prediction is not None:  # no meter: the predicted watts
            joules, label = self.prediction.watts.value * so_far_s, "modelled"
        return Forecast(
            steps=int(self._steps.units),
            total_steps=self.length.steps,
            so_far_s=so_far_s,
            energy_so_far_j=joules,
            energy_label=label if joules is not None else "missing",
            seconds=None if rest is None else from_now(so_far_s, rest),
            energy_j=whole_j,
        )

    def _metered(self, so_far_s: float) -> float | None:
        """Joules so far; the energy since the previous reading updates the watts."""
        joules = self._energy.so_far_j()
        if joules is not None:
            before_s, before_j = self._joules
            if so_far_s > before_s:
                self._watts.add(joules - before_j, so_far_s - before_s)
            self._joules = (so_far_s, joules)
        return joules

    def _compare_forecast(self, forecast: Forecast) -> None:
        """Stops a run that has exceeded a limit or probably will; warns of one that may."""
        used = self._verdicts(Interval.exact(forecast.so_far_s), _exact(forecast.energy_so_far_j))
        broken = [verdict for verdict in used if verdict.exceeded]
        settled = self._steps.settled >= SETTLED_STEPS
        if not broken and settled:
            broken = [one for one in self._verdicts(forecast.seconds, forecast.energy_j) if one.exceeded]
        if broken and self.stopping is None:
            total = f" of {forecast.total_steps:,}" if forecast.total_steps else ""
            label = f", energy {forecast.energy_label}" if broken[0].limit.quantity != "time" else ""
            self.stopping = BudgetExceeded(broken[0], f"stopped after {forecast.steps:,}{total} steps{label}")
        elif settled and self.terms.request.budget_at == "high":
            for verdict in self._verdicts(forecast.seconds, forecast.energy_j, high=True):
                if verdict.exceeded and verdict.limit not in self._doubtful:
                    self._doubtful.add(verdict.limit)
                    self._warn(f"{verdict}; the run may not fit, forecast after {forecast.steps:,} steps")

    def _verdicts(self, seconds: Interval | None, energy_j: Interval | None, high: bool = False) -> list[BudgetVerdict]:
        energy_kwh = None if energy_j is None else energy_j * (1 / JOULES_PER_KWH)
        verdicts = self.terms.verdicts(seconds, energy_kwh, "high" if high else "expected")
        return [verdict for verdict in verdicts if verdict.limit not in self._waived]

    # -- at the end ------------------------------------------------------------------------------

    def finish(self, *, log: bool = True) -> dict[str, float]:
        """Ends the run: logs and returns what it took, and closes the meter."""
        if self._state == "running":
            try:
                self.forecast = self._forecast(self._clock(), 0, 0)
                if log:
                    self._logged(self.forecast)
                self._say(result_line(self.forecast, self.estimate, self.terms))
            except Exception as error:
                self.complain("the last forecast", error)
        if self._state != "over":
            self._energy.close()
        self._state = "over"
        figures = figures_of(self.forecast) if self.forecast else {}
        return {name: value for name, value in figures.items() if "forecast" not in name}

    def settle(self) -> None:
        """Raises the error that the run was stopped for, or warns of it if the terms say so."""
        error, self.stopping = self.stopping, None
        if error is not None and self.terms.on_exceed != "warn":
            raise error
        if error is not None:
            self._warn(str(error))

    # -- log lines -------------------------------------------------------------------------------

    def complain(self, what: str, error: Exception) -> None:
        from ..estimator.sandbox.user_code import one_line

        if what not in self._complaints:
            self._complaints.add(what)
            reason = one_line(str(error)) or type(error).__name__
            self._warn(f"{what} failed ({reason}); training continues without it")

    def _logged(self, forecast: Forecast) -> None:
        try:
            if self._log is not None:
                self._log(figures_of(forecast))
        except Exception as error:
            self.complain("the logger", error)

    def _warn(self, line: str) -> None:
        if self.peers.first:
            _shown().warning(line)

    def _say(self, line: str) -> None:
        if self.peers.first:
            _shown().info(line)


def warm_up_steps(steps: int | None) -> int:
    """How many of `steps` the pace leaves out: a twentieth, 1 to 10."""
    return 3 if steps is None else min(10, max(1, steps // 20))


def figures_of(forecast: Forecast) -> dict[str, float]:
    """The figures for the trainer's logger, by name; unknown ones are left out."""
    figures = {"joulecast/seconds": forecast.so_far_s}
    if forecast.energy_so_far_j is not None:
        figures[f"joulecast/energy_{forecast.energy_label}_j"] = forecast.energy_so_far_j
    if forecast.seconds is not None:
        figures |= _named("joulecast/forecast_seconds", forecast.seconds)
    if forecast.energy_j is not None:
        figures |= _named("joulecast/forecast_energy_kwh", forecast.energy_j * joules_to_kwh(1))
    return figures


def _named(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _exact(value: float | None) -> Interval | None:
    return None if value is None else Interval.exact(value)


def _confirmed(line: str) -> bool:
    """Asks on a terminal; without one the answer is no."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print(f"{line}\nTrain anyway? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().casefold() in ("y", "yes")


def _shown() -> logging.Logger:
    """The logger; if the application configured no logging, its lines go to stderr."""
    if not LOGGER.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("joulecast: %(message)s"))
        LOGGER.addHandler(handler)
        LOGGER.setLevel(logging.INFO)
    return LOGGER
