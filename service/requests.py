"""What a client may ask: the fields of an estimate that need no code and no file of the server."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from ..estimator.answer.request import PRECISIONS
from ..estimator.cost.software import SOFTWARE

# No slashes and no dots at the start: names and figures of hardware, never a file of the server.
_NAME = re.compile(r"[A-Za-z0-9][\w .,:=+()@-]*")
_LONGEST = 200
Name = Annotated[str, StringConstraints(pattern=f"^(?:{_NAME.pattern})$", max_length=_LONGEST)]
Count = Annotated[float, Field(gt=0, le=1e18, allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=1, le=10**9)]
Texts = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)  # one text or a list of them
Figure = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class EstimateRequest(BaseModel):
    """One model, given in one of three ways, and its run. The fields are those of `joulecast.Request`."""

    model_config = ConfigDict(extra="forbid", strict=False, protected_namespaces=())

    workload: dict[str, Any] | None = Field(None, description="A workload document (`joulecast.workload/1`).")
    workload_id: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")] | None = Field(
        None, description="The id of a workload that the server knows: that of an earlier answer."
    )
    config: dict[str, Any] | None = Field(None, description="The content of a Hugging Face config.json.")

    inputs: Annotated[list[Name], Texts] = Field(
        default=[], max_length=16, description='Shapes of one sample, as "3,224,224".'
    )
    dataset: Name | None = None
    sequence_length: Annotated[int, Field(ge=1, le=10**7)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=10**7)] | None = None
    train: bool | None = None
    optimizer: Name | None = None
    precision: Literal[tuple(PRECISIONS)] | None = None  # type: ignore[valid-type]
    accumulate: Whole | None = None
    clip_gradients: bool = False
    ema: bool = False
    activation_checkpointing: Literal["none", "selective", "full"] | None = None

    epochs: Count | None = None
    steps: Count | None = None
    samples: Count | None = None
    tokens: Count | None = None
    val_samples: Count | None = None
    devices: Annotated[int, Field(ge=1, le=10**6)] | None = None
    hardware: Name | None = Field(
        None,
        description="A name of `joulecast profiles`, or figures: tflops=35,bandwidth=448,watts=150.",
    )
    cluster: Name | None = None
    parallel: Name | None = None
    zero: Annotated[int, Field(ge=0, le=3)] | None = None
    global_batch: Whole | None = None
    input_bound: Count | None = None
    overhead: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    restart_hours: Figure | None = None
    idle_hosts: Annotated[int, Field(ge=0, le=10**6)] | None = None
    storage_w: Figure | None = None
    software: Literal[tuple(SOFTWARE)] | None = None  # type: ignore[valid-type]

    region: Name | None = None
    carbon_intensity: Figure | None = None
    pue: Annotated[float, Field(ge=1, le=10, allow_inf_nan=False)] | None = None
    price: Figure | None = None
    device_hour: Figure | None = None
    embodied: bool = False
    currency: Annotated[str, StringConstraints(pattern="^[A-Z]{3}$")] = "USD"
    budget: Annotated[list[Annotated[str, StringConstraints(max_length=_LONGEST)]], Texts] = Field(
        default=[], max_length=16, description='One limit or several: "2 kWh", "10 h".'
    )
    budget_at: Literal["high", "expected"] = "high"

    def fields(self) -> dict[str, Any]:
        """The fields of a `Request` that were given, without the model."""
        given = self.model_dump(exclude={"workload", "workload_id", "config"}, exclude_unset=True)
        return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
