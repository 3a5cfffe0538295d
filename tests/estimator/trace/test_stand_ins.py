"""Stand-ins of a step's tensors, and the bytes that it keeps, by hand."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from joulecast.estimator.trace import step
from joulecast.estimator.trace.saved_bytes import SavedBytes
from joulecast.estimator.trace.step import StandIns, Trained
from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.training_step import Update
from joulecast.estimator.trace.untouched import untouched


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
    x, weight = torch.zeros(4, 4), torch.zeros(3)
    without, whole = SavedBytes({"weight": weight}), SavedBytes({})
    for kept, size in ((without, 64 + 40), (whole, 64 + 12 + 40)):
        saved = [kept.add(one) for one in (x, x.t(), x[0], weight, torch.zeros(5, dtype=torch.int64))]
        assert saved[0].unpacked() is x
        kept.backward_starts()
        assert kept.most == size
        kept.release()
        assert saved[0].tensor is None


def test_kept_bytes_are_those_of_the_largest_backward_pass() -> None:
    kept = SavedBytes({})
    for elements in (2, 5, 3):
        saved = kept.add(torch.zeros(elements))
        kept.backward_starts()
        del saved  # which the pass frees
    assert kept.most == 4 * 5


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("compressed", [None, "csr", "csc"])
def test_kept_bytes_of_sparse_tensors_are_those_of_indices_and_values(compressed: str | None) -> None:
    tensor = torch.eye(6).to_sparse()
    size = 2 * 6 * 8 + 6 * 4  # two indices of 8 bytes and a value of 4 for each of the six elements
    if compressed:
        make = torch.sparse_csr_tensor if compressed == "csr" else torch.sparse_csc_tensor
        tensor = make(torch.arange(7), torch.arange(6), torch.ones(6), (6, 6))
        size = 7 * 8 + 6 * 8 + 6 * 4
    whole, without = SavedBytes({}), SavedBytes({"tensor": tensor})
    for sizes, most in ((whole, size), (without, 0)):
        kept = [sizes.add(tensor), sizes.add(tensor)]
        assert sum(sizes.alive().values()) == size
        sizes.backward_starts()
        assert sizes.most == most
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
