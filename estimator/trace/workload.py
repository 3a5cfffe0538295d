"""What one step of a run does: layers and ops, with no notion of hardware.

FLOPs: one multiply-add counts as one, fvcore's convention, here and everywhere in joulecast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from ..base.errors import JoulecastError
from ..sandbox.collection import without_collection

if TYPE_CHECKING:
    import pandas

SCHEMA = "joulecast.workload/1"


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of one step.

    `kind` is what the cost model groups by (`KINDS` in formulas.py); `flops` are multiply-adds;
    `dims` holds the named sizes that the cost depends on (conv: n, c_in, c_out, groups, k, out, ...).
    `count` says how many equal ops in a row this record stands for; the other figures are of one.
    """

    name: str
    kind: str
    phase: str  # "forward", "backward" or "optimizer"
    layer: str  # path of the module, "" for the root
    flops: int
    bytes_read: int
    bytes_written: int
    dtype: str = "float32"
    dims: Mapping[str, int] = field(default_factory=dict)
    count: int = 1

    def in_layer(self, layer: str) -> Op:
        """The same op in another layer. `replace` takes three times as long, which matters for many experts."""
        return Op(
            self.name,
            self.kind,
            self.phase,
            layer,
            self.flops,
            self.bytes_read,
            self.bytes_written,
            self.dtype,
            self.dims,
            self.count,
        )

    @property
    def bytes_moved(self) -> int:
        return self.bytes_read + self.bytes_written

    @property
    def computed_flops(self) -> float:
        """The multiply-adds without those of attention scores that a block mask leaves out ("scores": of one head)."""
        scores = self.dims.get("scores")
        return self.flops if scores is None else self.flops * scores / (self.dims["q"] * self.dims["s"])


@dataclass(frozen=True, slots=True)
class Layer:
    """One module of the network: forward multiply-adds per step and parameters of its own and below.

    `source` is "fvcore" where fvcore could trace it and "trace" where joulecast's own count stands.
    """

    path: str
    kind: str
    output_shape: tuple[int, ...]
    flops: int
    parameters: int
    depth: int
    source: str
    leaf: bool = True


@dataclass(frozen=True, slots=True)
class Workload:
    """One step of a run, `batch_size` samples long, as layers and ops.

    `unsupported` names ATen ops without a FLOP formula that are not plain data movement, each with
    the bytes it moves; `unsupported_byte_share` is their share of all bytes.
    """

    name: str
    framework: str  # "pytorch" or "keras"
    batch_size: int
    train: bool
    optimizer: str | None
    precision: str  # "float32", "bfloat16", "float16", "float8" (trace/fp8.py): of the arithmetic
    parameters: int
    trainable_parameters: int
    parameter_bytes: int
    activation_bytes: int  # kept from forward for backward
    layers: tuple[Layer, ...]
    ops: tuple[Op, ...]
    unsupported: Mapping[str, int] = field(default_factory=dict)
    tokens_per_sample: int = 1
    input_bytes: int = 0
    warnings: tuple[str, ...] = ()
    optimizer_state_bytes: int | None = None  # of moments, averages and preconditioners; None in older documents
    tracer: str = "meta"  # "meta", "fake" or "real": the tensors the step was read off from
    samples_per_epoch: int | None = None  # of the data that a training script reads, where it was seen
    compiled: bool = False  # the whole model runs through torch.compile; the ops are listed as without it

    @property
    def forward_flops(self) -> int:
        return sum(op.flops * op.count for op in self.ops if op.phase == "forward")

    @property
    def flops(self) -> int:
        """Multiply-adds of the whole step."""
        return sum(op.flops * op.count for op in self.ops)

    @property
    def bytes_moved(self) -> int:
        return sum(op.bytes_moved * op.count for op in self.ops)

    @property
    def unsupported_byte_share(self) -> float:
        total = self.bytes_moved
        return sum(self.unsupported.values()) / total if total else 0.0

    def ops_frame(self) -> pandas.DataFrame:
        """One row per op: kind, phase, layer, multiply-adds, bytes, count and the sizes in `dims`."""
        import pandas

        return pandas.DataFrame([asdict(op) for op in self.ops])

    def layers_frame(self) -> pandas.DataFrame:
        """One row per module: path, kind, output shape, multiply-adds and parameters."""
        import pandas

        return pandas.DataFrame([asdict(layer) for layer in self.layers])

    def forward_only(self) -> Workload:
        """The same network run forward once, as a validation step does."""
        ops = tuple(op for op in self.ops if op.phase == "forward")
        return replace(self, train=False, optimizer=None, ops=ops)

    def to_json(self) -> dict[str, Any]:
        document = asdict(replace(self, ops=()))  # which would make a dictionary of each op
        with without_collection():
            document["ops"] = [_op_row(op) for op in self.ops]
        return {"schema": SCHEMA, **document}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Workload:
        """Raises JoulecastError when the document is not a workload of this schema."""
        if document.get("schema") != SCHEMA:
            raise JoulecastError(
                f"workload has schema {document.get('schema')!r}, this one reads {SCHEMA!r}; trace it again"
            )
        try:
            values = {key: value for key, value in document.items() if key != "schema"}
            with without_collection():
                values["ops"] = tuple(_row_op(row) for row in values["ops"])
            values["layers"] = tuple(
                Layer(**{**layer, "output_shape": tuple(layer["output_shape"])}) for layer in values["layers"]
            )
            values["warnings"] = tuple(values.get("warnings", ()))
            return cls(**values)
        except (TypeError, KeyError, ValueError) as error:
            raise JoulecastError(f"workload document is corrupt ({error}); trace it again") from error


_OP_FIELDS = len(fields(Op))


def _op_row(op: Op) -> list[Any]:
    """Ops as rows, in the order of their fields: a third of the size of one object an op."""
    return [
        op.name,
        op.kind,
        op.phase,
        op.layer,
        op.flops,
        op.bytes_read,
        op.bytes_written,
        op.dtype,
        dict(op.dims),
        op.count,
    ]


def _row_op(row: list[Any]) -> Op:
    if len(row) != _OP_FIELDS:
        raise ValueError(f"an op has {len(row)} fields, expected {_OP_FIELDS}")
    return Op(*row)
