"""Parts of a recorded step by hand: real runs of few samples, kept bytes, stand-ins, modules and notes."""

from __future__ import annotations

import functools
import logging
import warnings
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from joulecast.estimator.base.errors import JoulecastError, ModelError
from joulecast.estimator.trace import layer_table as layer_table_module
from joulecast.estimator.trace import scans, step
from joulecast.estimator.trace.layer_table import _ancestors, fvcore_counts, layer_table
from joulecast.estimator.trace.recorder import LOSS_LAYER, Recorder, _first_shape
from joulecast.estimator.trace.step import Listing, StandIns, Step, Trained
from joulecast.estimator.trace.trace import _accumulated, _arithmetic, _notes, _update, trace
from joulecast.estimator.trace.training_step import Update
from joulecast.estimator.trace.untouched import untouched
from joulecast.estimator.trace.workload import Op


def op(name: str = "mm", flops: int = 0, **fields: Any) -> Op:
    given = {"kind": "matmul", "phase": "forward", "layer": "", "bytes_read": 0, "bytes_written": 0, **fields}
    return Op(name=name, flops=flops, **given)


def listing(ops: list[Op], **fields: Any) -> Listing:
    recorder = Recorder(nn.Identity())
    recorder.ops = ops
    given = {"trained": (), "elements": {}, "saved_bytes": 0, "tracer": "meta", "has_output": True, **fields}
    return Listing(recorder, **given)


# -- a real run of two and of four samples ---------------------------------------------------------


def test_figures_of_a_batch_follow_from_those_of_two_and_four_samples() -> None:
    two = listing([op(flops=10, bytes_read=100, bytes_written=7, dims={"m": 2, "k": 5})], saved_bytes=50)
    four = listing([op(flops=20, bytes_read=120, bytes_written=7, dims={"m": 4, "k": 5})], saved_bytes=90)
    two.recorder.output_shapes = {"": (2, 8), "odd": (2, 3), "same": (3,)}
    four.recorder.output_shapes = {"": (4, 8), "odd": (4,)}
    ten = step._extrapolated(two, four, 10)
    (found,) = ten.recorder.ops
    # Each figure of 2 samples, and 4 times the difference of another 2.
    assert (found.flops, found.bytes_read, found.bytes_written) == (10 + 4 * 10, 100 + 4 * 20, 7)
    assert found.dims == {"m": 10, "k": 5}
    assert {type(one) for one in (found.flops, found.bytes_read, found.dims["m"], ten.saved_bytes)} == {int}
    assert ten.saved_bytes == 50 + 4 * 40
    assert ten.recorder.output_shapes == {"": (10, 8), "odd": (2, 3), "same": (3,)}


def test_a_batch_is_cut_where_the_first_dimension_is_its_size() -> None:
    x, y, number = torch.zeros(8, 3), torch.zeros(3, 8), torch.zeros(())
    whole = Step(nn.Identity(), (x, [y, number, "text"]), {"z": torch.zeros(8)}, True, None, None)
    cut = step._with_batch(whole, 8, 2)
    assert tuple(cut.args[0].shape) == (2, 3)
    assert cut.args[1][0] is y
    assert cut.args[1][1] is number
    assert cut.args[1][2] == "text"
    assert tuple(cut.kwargs["z"].shape) == (2,)
    longer = Step(nn.Identity(), (torch.zeros(9, 3),), {}, True, None, None)
    assert tuple(step._with_batch(longer, 8, 2).args[0].shape) == (9, 3)


class Routes(nn.Module):
    """Reads which of 64 experts its tokens choose: 64 numbers a token."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.layer = nn.Linear(4, 64, bias=False), nn.Linear(4, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen = nn.functional.one_hot(self.router(x).argmax(-1), 64)
        for _ in chosen.sum((0, 1)).nonzero():
            pass
        return self.layer(x)


def test_a_batch_whose_values_are_too_many_follows_from_four_samples() -> None:
    with torch.device("meta"):
        model, x = Routes(), torch.zeros(16, 2**14, 4)  # 2**24 numbers in a batch, 2**22 in four samples
    work = trace(model, x, layers=False)
    assert work.tracer == "meta"
    assert work.batch_size == 16
    assert work.forward_flops == 16 * 2**14 * 4 * (64 + 4)


class DoesNotFit(nn.Module):
    """Meta and fake tensors have other words for its fault."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        moved = self.first(x)
        out: torch.Tensor = self.second(moved)
        return out


def test_two_tries_that_fail_at_one_place_by_shapes_leave_no_doubt() -> None:
    with torch.device("meta"):
        model, x = DoesNotFit(), torch.zeros(2, 3, 8, 8)
    with pytest.raises(ModelError, match="to have 8 channels, but got 4 channels") as caught:
        trace(model, x, layers=False)
    assert caught.value.is_final


def failing(error: Exception) -> Exception:
    try:
        raise error
    except Exception as raised:
        return raised


def test_errors_of_other_places_or_about_other_things_are_not_alike() -> None:
    shapes, others = RuntimeError("sizes 3 and 4"), RuntimeError("shape (3, 4)")
    assert step._alike(failing(shapes), failing(others))  # raised in one line
    with pytest.raises(RuntimeError) as elsewhere:
        torch.zeros(2) + torch.zeros(3)
    assert not step._alike(shapes, elsewhere.value)
    assert step._alike(RuntimeError(str(elsewhere.value)), elsewhere.value)  # the same words
    assert not step._alike(failing(RuntimeError("sizes 3 and 4")), failing(RuntimeError("no values")))
    assert not step._alike(RuntimeError("sizes"), RuntimeError("shape"))  # of no place


class KeepsATable(nn.Module):
    """Its table is made once, in a cache; its result needs a real run."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        moved: torch.Tensor = x + cached_table(4)
        if x.data_ptr() == 0:
            raise RuntimeError("no values")
        out: torch.Tensor = self.layer(moved)
        return out


@functools.lru_cache
def cached_table(size: int) -> torch.Tensor:
    return torch.ones(size)


def test_the_next_try_does_not_find_tensors_of_the_last_in_a_cache() -> None:
    cached_table.cache_clear()
    assert trace(KeepsATable(), torch.zeros(2, 4), layers=False).tracer == "real"
    assert cached_table(4).tolist() == [1, 1, 1, 1]


class ReadsItsWeights(nn.Module):
    """Only a real run can read it: numpy needs the values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(300, 300)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.data_ptr() == 0:
            raise RuntimeError("no values")
        out: torch.Tensor = self.layer(x)
        return out


@pytest.mark.parametrize("batch", [1, 4, 5, 12])
def test_a_real_run_is_of_the_batch_up_to_four_and_gives_the_figures_of_any(batch: int) -> None:
    work = trace(ReadsItsWeights(), torch.zeros(batch, 300), layers=False)
    assert work.tracer == "real"
    assert work.forward_flops == batch * 300 * 300
    assert work.batch_size == batch
    assert "the model needs real values, so one step was run on the CPU to list its ops" in work.warnings


@pytest.mark.parametrize(("batch", "runs"), [(1, [1]), (2, [2]), (4, [4]), (5, [2, 4]), (9, [2, 4])])
def test_a_batch_of_more_than_four_samples_is_two_real_runs(
    monkeypatch: pytest.MonkeyPatch, batch: int, runs: list[int]
) -> None:
    seen: list[int] = []
    run = step._run

    def noted(one: Step, tracer: str, *others: Any) -> Listing:
        if tracer == "real":
            seen.append(len(one.args[0]))
        return run(one, tracer, *others)

    monkeypatch.setattr(step, "_run", noted)
    trace(ReadsItsWeights(), torch.zeros(batch, 300), layers=False)
    assert seen == runs


def test_why_a_run_is_tried_again_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    one = Step(nn.Linear(3, 4), (), {}, True, None, None)
    with caplog.at_level(logging.DEBUG, "joulecast.trace"):
        step._log_retry(one, "meta", ValueError("  first line\nsecond line"))
    assert caplog.messages == ["Linear: not on meta tensors: ValueError: first line"]


@pytest.mark.parametrize(("tracer", "enabled"), [("meta", True), ("fake", False), ("real", True)])
def test_nothing_is_logged_about_a_run_on_fake_tensors(tracer: str, enabled: bool) -> None:
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    with step._quiet(tracer):
        assert logger.isEnabledFor(logging.CRITICAL) is enabled
        warnings.warn("not shown", stacklevel=1)
    assert logger.level == level
    with pytest.raises(UserWarning, match="an error in these tests"):
        warnings.warn("an error in these tests", stacklevel=1)


def test_a_model_too_large_for_a_real_run_shows_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ReadsItsWeights()  # 90,300 parameters
    monkeypatch.setattr(step, "MAX_REAL_PARAMETERS", 90_300)
    assert step._can_run_for_real(model)
    monkeypatch.setattr(step, "MAX_REAL_PARAMETERS", 90_299)
    assert not step._can_run_for_real(model)
    with pytest.raises(JoulecastError):
        trace(model, torch.zeros(2, 300), layers=False)
    monkeypatch.undo()
    assert not step._can_run_for_real(nn.Linear(2, 2, device="meta"))
    assert step._can_run_for_real(nn.LazyLinear(2))
    assert step.MAX_REAL_PARAMETERS == 10**9


def test_batch_norm_on_one_value_names_the_batch_size() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with pytest.raises(JoulecastError, match="give a batch size of 2 or more"):
        trace(model, torch.zeros(1, 3), layers=False)


# -- stand-ins and what is kept ----------------------------------------------------------------------


def test_stand_ins_are_made_once_and_like_their_originals() -> None:
    stand_ins = StandIns("meta")
    weight = nn.Parameter(torch.ones(2, 3).t(), requires_grad=False)
    made = stand_ins.of(weight)
    assert isinstance(made, nn.Parameter)
    assert (made.is_meta, made.requires_grad, made.stride()) == (True, False, (1, 3))
    assert stand_ins.of(weight) is stand_ins.of(made) is made
    assert stand_ins.of("text") == "text"
    leaf, plain = torch.ones(2, requires_grad=True), torch.ones(2)
    assert stand_ins.of(leaf).requires_grad
    assert not stand_ins.of(plain).requires_grad
    assert not stand_ins.of(leaf * 2).requires_grad


@pytest.mark.parametrize("requires_grad", [True, False])
def test_what_has_no_shape_yet_stays_so(requires_grad: bool) -> None:
    weight = UninitializedParameter(requires_grad=requires_grad, dtype=torch.float16)
    made = StandIns("meta").of(weight)
    assert step.is_lazy(made)
    assert (type(made), made.dtype, made.device.type) == (UninitializedParameter, torch.float16, "meta")
    assert made.requires_grad is requires_grad
    buffer = StandIns("real").of(UninitializedBuffer(dtype=torch.float16))
    assert (type(buffer), buffer.dtype, buffer.device.type) == (UninitializedBuffer, torch.float16, "cpu")
    assert not step.is_lazy(torch.zeros(1))


def test_a_sparse_tensor_has_a_stand_in_of_its_shape() -> None:
    made = StandIns("meta").of(torch.eye(3).to_sparse())
    assert (tuple(made.shape), made.is_meta, made.layout) == ((3, 3), True, torch.strided)


def test_real_stand_ins_are_copies_up_to_256_mib_and_zeros_need_no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    assert step._MAX_COPIED_BYTES == 256 * 1024 * 1024
    monkeypatch.setattr(step, "_MAX_COPIED_BYTES", 8)
    small, large, weight = torch.ones(2), torch.ones(3), nn.Parameter(torch.ones(3))
    real = StandIns("real")
    assert real.of(small).data_ptr() != small.data_ptr()
    assert real.of(large).data_ptr() == large.data_ptr()
    assert real.of(weight).data_ptr() != weight.data_ptr()
    assert real.of(weight).tolist() == [1.0] * 3
    zeros = StandIns("zeros")
    assert zeros.of(weight).tolist() == [0.0] * 3
    assert zeros.of(small).tolist() == [1.0] * 2
    assert real.of(torch.empty(2, device="meta")).tolist() == [0.0] * 2


def test_a_scripted_module_gets_its_tensors_back() -> None:
    """Its parameters are a view that no record contains."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some releases call scripting deprecated
        scripted = torch.jit.script(nn.Linear(3, 4))
    for module, actions in ((scripted, 2), (nn.Linear(3, 4), 0)):
        weight = module.weight
        with untouched(module) as reached:
            StandIns("meta").swapped_in(module, reached)
            assert module.weight.is_meta
            assert len(reached._undo) == actions
        assert module.weight is weight


def test_kept_bytes_count_each_storage_once_and_no_state() -> None:
    kept = step._SavedBytes()
    x, weight = torch.zeros(4, 4), torch.zeros(3)
    saved = kept.add(x)
    kept.add(x.t())
    kept.add(x[0])
    kept.add(weight)
    kept.add(torch.zeros(5, dtype=torch.int64))
    assert saved.unpacked() is x
    assert kept.total_besides([weight]) == 64 + 40
    assert kept.total_besides([]) == 64 + 12 + 40
    kept.release()
    assert saved.tensor is None


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("compressed", [None, "csr", "csc"])
def test_kept_bytes_of_sparse_tensors_are_those_of_indices_and_values(compressed: str | None) -> None:
    tensor = torch.eye(6).to_sparse()
    size = 2 * 6 * 8 + 6 * 4  # two indices of 8 bytes and a value of 4 for each of the six elements
    if compressed:
        make = torch.sparse_csr_tensor if compressed == "csr" else torch.sparse_csc_tensor
        tensor = make(torch.arange(7), torch.arange(6), torch.ones(6), (6, 6))
        size = 7 * 8 + 6 * 8 + 6 * 4
    sizes = step._SavedBytes()
    kept = [sizes.add(tensor), sizes.add(tensor)]
    assert sum(sizes.alive().values()) == size
    assert sizes.total_besides([]) == size
    assert sizes.total_besides([tensor]) == 0
    del kept
    assert not sizes.alive()


class KeepsSparse(nn.Module):
    """Keeps the product of two sparse tensors for backward, and reads how many elements it has."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))
        self.table = torch.eye(6).to_sparse()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = torch.arange(6, device=x.device).expand(2, 6)
        both = torch.sparse.mm(self.table, torch.sparse_coo_tensor(places, self.weight, (6, 6)))
        return x @ both.to_dense() * both._nnz()


def test_products_of_sparse_tensors_are_traced_and_the_model_keeps_its_table() -> None:
    net = KeepsSparse()
    work = trace(net, torch.zeros(4, 6), layers=False)
    assert any(op.phase == "backward" for op in work.ops)
    assert torch.equal(net.table.to_dense(), torch.eye(6))
    assert net.weight.grad is None


def test_updates_of_parameters_by_their_first_name() -> None:
    def parameter(grad: torch.Tensor | None, requires_grad: bool = True) -> nn.Parameter:
        made = nn.Parameter(torch.zeros(2, 3, dtype=torch.float16), requires_grad=requires_grad)
        made.grad = grad
        return made

    one, none, frozen = parameter(torch.zeros(2, 3).half()), parameter(None), parameter(None, requires_grad=False)
    state = {"a.w": one, "tied.w": one, "b.w": none, "c.w": frozen}
    expected = Trained("a.w", 6, 2, "float16", (2, 3), 1)
    assert step._trained(state, {}) == (expected,)
    update = Update(4)
    update.count = 5
    assert step._trained(state, {"b.w": update}) == (Trained("b.w", 4, 2, "float16", (2, 3), 5),)


# -- layers ------------------------------------------------------------------------------------------


def test_the_first_shape_of_an_output() -> None:
    x, y = torch.zeros(2, 3), torch.zeros(4)
    assert _first_shape(x) == (2, 3)
    assert _first_shape((None, [y, x])) == (4,)
    assert _first_shape(OrderedDict(a=3.0, b={"c": x})) == (2, 3)
    assert _first_shape([]) is _first_shape(None) is _first_shape("text") is _first_shape({"a": 1}) is None


def test_a_module_that_raises_leaves_the_layers_above_it() -> None:
    class Raises(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("no")

    class Tries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bad, self.good = Raises(), nn.Linear(3, 3, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                self.bad(x)
            except ValueError:
                x = x + 1
            out: torch.Tensor = self.good(x) * 2
            return out

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Tries()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.inner(x) - 1
            return out

    work = trace(Whole(), torch.zeros(2, 3), train=False, layers=False)
    layers = {one.name: one.layer for one in work.ops}
    assert layers["mm"] == "inner.good"
    assert (layers["mul"], layers["sub"]) == ("inner", "")
    assert {layer.path for layer in work.layers} == {"", "inner", "inner.good"}


def test_the_loss_is_a_layer_of_its_own() -> None:
    work = trace(nn.Linear(3, 4), torch.zeros(2, 3), layers=False)
    assert {one.layer for one in work.ops if one.kind == "loss"} == {LOSS_LAYER}
    assert {one.layer for one in work.ops if one.name == "mm"} == {""}


def test_a_path_and_all_above_it() -> None:
    assert list(_ancestors("a.b.c")) == ["a.b.c", "a.b", "a", ""]
    assert list(_ancestors("")) == [""]


def test_rows_of_modules_that_ran() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 4)), nn.ReLU(), nn.Linear(4, 2))
    elements = {id(parameter): parameter.numel() for parameter in model.parameters()}
    found = listing(
        [
            *(op(flops=10, layer="0.0"), op(flops=5, layer="0.0"), op(flops=2, layer="0"), op(flops=100, layer="1")),
            op(flops=1000, layer="0.0", phase="backward"),
        ],
        elements=elements,
    )
    found.recorder.output_shapes = {"": (2, 2), "0": (2, 4), "0.0": (2, 4), "1": (2, 4)}
    rows = {row.path: row for row in layer_table(model, found, None, 2)}
    assert list(rows) == ["", "0", "0.0", "1"]  # the last one never ran
    assert {path: row.flops for path, row in rows.items()} == {"": 117, "0": 17, "0.0": 15, "1": 100}
    assert {path: row.parameters for path, row in rows.items()} == {"": 26, "0": 16, "0.0": 16, "1": 0}
    assert {path: row.depth for path, row in rows.items()} == {"": 0, "0": 1, "0.0": 2, "1": 1}
    assert {path: row.leaf for path, row in rows.items()} == {"": False, "0": False, "0.0": True, "1": True}
    assert {row.source for row in rows.values()} == {"trace"}
    assert rows["0"].output_shape == (2, 4)


@pytest.mark.parametrize(
    ("shape", "batch_first", "ran"),
    [((6, 3), True, (1, 3)), ((6, 3), False, (1, 3)), ((2, 6, 3), False, (2, 6, 3))],
)
def test_fvcore_runs_one_sample_where_inputs_begin_with_the_batch(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], batch_first: bool, ran: tuple[int, ...]
) -> None:
    seen: list[Any] = []
    counted = layer_table_module.fvcore_forward_flops
    monkeypatch.setattr(
        layer_table_module,
        "fvcore_forward_flops",
        lambda model, args, kwargs: seen.append((args[0].shape, kwargs["label"].shape)) or counted(model, args, {}),
    )
    model, args = nn.Sequential(nn.Linear(3, 4, bias=False)), (torch.zeros(shape),)
    kwargs = {"label": torch.zeros(shape[:1])}
    macs = args[0].numel() * 4
    with untouched(model, args, kwargs, None) as reached:
        counts, notes = fvcore_counts(
            Step(model, args, kwargs, True, None, None), 6, macs, reached, batch_first=batch_first
        )
    assert seen == [(ran, ran[:1])]
    assert (counts, notes) == ({"": macs / 6, "0": macs / 6}, [])


# -- from the listing to the workload ------------------------------------------------------------------


def test_gradients_are_added_from_the_second_micro_batch_on() -> None:
    found = listing([op(flops=3, count=2)], trained=(Trained("a.b.w", 6, 4, "float32", (2, 3)),))
    assert _accumulated(found, 1) == [op(flops=3, count=2)]
    first, add = _accumulated(found, 4)
    assert first.count == 8
    assert (add.name, add.kind, add.phase, add.layer, add.flops) == ("add_", "elementwise", "backward", "a.b", 0)
    assert (add.bytes_read, add.bytes_written, add.count) == (48, 24, 3)
    assert add.dims == {"elements_in": 6, "elements_out": 6}


def test_an_update_between_clipping_and_a_moving_average() -> None:
    once = Trained("a.w", 6, 4, "float32", (2, 3))
    assert [one.name for one in _update("sgd", once, False, False)] == ["sgd"]
    ops = _update("sgd", once, True, True)
    assert [one.name for one in ops] == ["clip_grad_norm_", "sgd", "ema"]
    assert {one.layer for one in ops} == {"a"}
    thrice = Trained("a.w", 6, 4, "float32", (2, 3), 3)
    assert [one.count for one in _update("sgd", thrice, True, True)] == [3, 3, 3]
    rows = Trained("a.w", 3, 4, "float32", (2, 3))  # of a sparse gradient: the average is of the whole
    assert [one.dims["elements"] for one in _update("sgd", rows, True, True)] == [3, 3, 6]


def test_the_format_of_a_workload_is_that_of_most_multiply_adds() -> None:
    half = op(flops=10, dtype="bfloat16", count=3)
    assert _arithmetic([op(flops=29), half]) == "bfloat16"
    assert _arithmetic([op(flops=16), half, op(flops=15)]) == "float32"
    assert _arithmetic([op(dtype="bfloat16")]) == "float32"
    assert _arithmetic([]) == "float32"


def test_notes_on_what_a_step_left_out() -> None:
    model = nn.Linear(3, 4)
    training, inference = (Step(model, (), {}, train, None, None) for train in (True, False))
    both = tuple(Trained(name, 1, 4, "float32", (1,)) for name in ("weight", "bias"))
    assert _notes(training, listing([], trained=both)) == []
    assert _notes(training, listing([], trained=both[:1])) == [
        "1 trainable parameter tensors get no gradient from the loss"
    ]
    assert _notes(training, listing([], trained=both, has_output=False)) == [
        "the model's output has no tensor to put a loss on"
    ]
    own = Step(model, (), {}, True, None, lambda output: output.sum())
    assert _notes(own, listing([], trained=both, has_output=False)) == []
    assert _notes(inference, listing([], has_output=False)) == []
    assert _notes(inference, listing([], values_drawn=3)) == [
        "3 values that the model reads depend on its activations, or on weights without values: "
        "random numbers were used in their place"
    ]


def test_figures_of_a_workload() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2).double().float())
    model[1].bias.requires_grad_(False)
    work = trace(model, torch.zeros(5, 3), optimizer="momentum", accumulate=3, ema=True, layers=False)
    assert (work.parameters, work.trainable_parameters, work.parameter_bytes) == (22, 20, 88)
    assert (work.batch_size, work.input_bytes) == (15, 3 * 60)
    assert work.optimizer_state_bytes == 2 * 80  # a velocity and an average
    idle = trace(model, torch.zeros(5, 3), train=False, layers=False)
    assert (idle.optimizer, idle.optimizer_state_bytes, idle.batch_size) == (None, 0, 5)


@pytest.mark.parametrize(("value", "valid"), [(1, True), (0, False)])
def test_at_least_one_micro_batch_and_an_equal_share(value: int, valid: bool) -> None:
    for option in ("accumulate", "expert_imbalance"):
        options: dict[str, Any] = {option: value}
        if valid:
            trace(nn.Linear(3, 4), torch.zeros(2, 3), layers=False, **options)
            continue
        with pytest.raises(JoulecastError, match=f"{option} is 0; give 1"):
            trace(nn.Linear(3, 4), torch.zeros(2, 3), layers=False, **options)


# -- scans -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(scans.METHODS))
def test_a_method_that_computes_a_scan_is_one_op_and_put_back(name: str) -> None:
    def walk(self: Any, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        state = torch.zeros(x.shape[0], 4, device=x.device)
        for position in range(x.shape[1]):
            state = state @ gate + x[:, position]
        return state

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Parameter(torch.zeros(4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = getattr(self, name)(x, self.gate)
            return out

    setattr(Layer, name, walk)
    work = trace(Layer(), torch.zeros(2, 7, 4), train=False, layers=False)
    assert [(one.name, one.kind, one.flops) for one in work.ops] == [(name, "scan", 7 * 2 * 16)]
    assert vars(Layer)[name] is walk


def test_scans_that_the_code_names() -> None:
    assert {"_rnn_scan", "selective_scan", "mlstm_recurrent_sequence_native"} == scans.METHODS
