"""What is known after an op, read from a stand-in, or moved to the CPU: by hand, op by op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from joulecast.estimator.trace import values as module
from joulecast.estimator.trace.parts import NeedsValuesError
from joulecast.estimator.trace.values import (
    MAX_ELEMENTS,
    Following,
    ReadsValues,
    Values,
    made_on_meta,
)

aten = torch.ops.aten


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def known(values: Values, data: Any) -> torch.Tensor:
    """A stand-in with the values of `data`."""
    return values.stand_in_for(torch.as_tensor(data))


def run(values: Values, call: Callable[[], Any]) -> Any:
    with torch.device("meta"), Following(values), ReadsValues(values):
        return call()


MASK = [[True, False, True], [False, True, False]]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda mask, x: mask.nonzero(), [[0, 0], [0, 2], [1, 1]]),
        (lambda mask, x: torch.bincount(x), [0, 1, 2]),
        (lambda mask, x: torch.repeat_interleave(x), [0, 1, 1, 2, 2]),
        (lambda mask, x: torch.unique(x), [1, 2]),
        (lambda mask, x: torch.unique_consecutive(x), [1, 2]),
        (lambda mask, x: x + 1, [2, 3, 3]),
        (lambda mask, x: torch.arange(3) * x, [0, 2, 4]),
        (lambda mask, x: x.cumsum(0), [1, 3, 5]),
        (lambda mask, x: torch.zeros_like(x), [0, 0, 0]),
        (lambda mask, x: x.new_full((2,), 7), [7, 7]),
        (lambda mask, x: mask[0] & (x > 1), [False, False, True]),
        (lambda mask, x: x.float() / 2, [0.5, 1.0, 1.0]),
    ],
)
def test_what_follows_from_known_numbers_is_known(call: Callable[..., Any], expected: list[Any]) -> None:
    values = Values("meta")
    mask, x = known(values, MASK), known(values, [1, 2, 2])
    result = run(values, lambda: call(mask, x))
    assert result.is_meta
    found = values.known(result)
    assert found is not None
    assert found.tolist() == expected
    assert tuple(result.shape) == tuple(found.shape)
    assert values.drawn == 0


def test_numbers_that_are_read_on_the_way() -> None:
    values = Values("meta")
    mask, x, activation = known(values, MASK), known(values, [1, 2, 2]), meta(2, 3)
    assert run(values, lambda: x.sum().item()) == 5
    assert run(values, lambda: x.tolist()) == [1, 2, 2]
    assert run(values, lambda: x.numpy()).tolist() == [1, 2, 2]
    halves = run(values, lambda: x.__array__(numpy.dtype("float32")))
    assert (halves.dtype, halves.tolist()) == ("float32", [1.0, 2.0, 2.0])
    assert run(values, lambda: torch.equal(x, x)) is True
    assert run(values, lambda: torch.equal(x, x + 1)) is False
    assert run(values, lambda: activation[mask]).shape == (3,)
    assert run(values, lambda: torch.masked_select(activation, mask)).shape == (3,)
    assert run(values, lambda: torch.masked_select(activation, mask)).dtype == torch.float32
    assert run(values, lambda: torch.masked_select(activation, mask[:, :1])).shape == (3,)  # spread over three
    assert run(values, lambda: torch.masked_select(activation, mask[0])).shape == (4,)
    assert values.drawn == 0


def test_real_tensors_are_read_by_torch_itself() -> None:
    """Reads of lengths that stay on the CPU, and of a mask that is the second argument, by who stands in."""
    values = Values("meta")
    real, stand_in = torch.tensor([1, 2]), known(values, [0, 3])
    assert values.answer("nonzero", (real,), {}) is None
    assert values.answer("bincount", (real, None), {}) is None
    assert values.answer("nonzero", (stand_in,), {}).shape == (1, 1)
    assert values.answer("masked_select", (meta(2), known(values, [False, True])), {}).shape == (1,)
    assert values.answer("add", (stand_in, stand_in), {}) is None
    assert values.answer("_ctc_loss_backward", (meta(2), meta(5, 2, 7)), {}).shape == (5, 2, 7)
    assert values.answer("_ctc_loss_backward", (torch.zeros(2), torch.zeros(5, 2, 7)), {}) is None


CPU = {"device": torch.device("cpu")}


def test_whole_numbers_are_copied_to_the_cpu() -> None:
    values = Values("meta")
    lengths = known(values, [3, 1])
    copied = values.to_host("_to_copy", (lengths,), CPU)
    assert copied is not None
    assert (copied.device.type, copied.dtype, copied.tolist()) == ("cpu", torch.int64, [3, 1])
    narrow = values.to_host("_to_copy", (lengths,), {**CPU, "dtype": torch.int32})
    assert narrow is not None
    assert (narrow.dtype, narrow.tolist()) == (torch.int32, [3, 1])
    copied.zero_()
    assert values.of(lengths).tolist() == [3, 1]


@pytest.mark.parametrize(
    ("name", "tensor", "kwargs"),
    [
        ("clone", meta(2, dtype=torch.int64), CPU),
        ("_to_copy", meta(2), CPU),  # an activation
        ("_to_copy", torch.zeros(2, dtype=torch.int64), CPU),  # is there
        ("_to_copy", meta(2, dtype=torch.int64), {}),
        ("_to_copy", meta(2, dtype=torch.int64), {"device": torch.device("meta")}),
        ("_to_copy", meta(2, dtype=torch.int64), {"device": torch.device("cuda")}),
        ("_to_copy", meta(1, dtype=torch.int64).expand(MAX_ELEMENTS + 1), CPU),
    ],
)
def test_other_copies_stay_stand_ins(name: str, tensor: torch.Tensor, kwargs: dict[str, Any]) -> None:
    assert Values("meta").to_host(name, (tensor,), kwargs) is None


def test_fake_tensors_are_on_the_cpu_already() -> None:
    assert Values("cpu").to_host("_to_copy", (meta(2, dtype=torch.int64),), CPU) is None


def test_a_copy_of_the_largest_known_size() -> None:
    copied = Values("meta").to_host("_to_copy", (meta(1, dtype=torch.int64).expand(MAX_ELEMENTS),), CPU)
    assert copied is not None
    assert copied.numel() == MAX_ELEMENTS


def test_what_depends_on_activations_is_computed_once_it_is_read() -> None:
    values = Values("meta")
    scores = meta(100, 4)
    chosen, best = run(values, lambda: (scores.argmax(1), scores.topk(2, dim=1)))
    assert values.drawn == 0
    assert values.known(chosen) is None
    first = values.of(chosen)
    assert (first.shape, first.dtype) == ((100,), torch.int64)
    assert set(first.tolist()) == {0, 1, 2, 3}
    assert values.drawn == 1
    indices = values.of(best.indices)
    assert (indices.shape, indices[:, 0].tolist()) == ((100, 2), first.tolist())  # from the same scores
    assert values.drawn == 2
    assert values.of(chosen) is first


def test_a_value_of_80_steps_is_computed_and_one_of_more_refused() -> None:
    values = Values("meta")

    def chain(steps: int) -> torch.Tensor:
        number = meta(2).argmax()
        for _ in range(steps):
            number = number + 1
        return number

    assert values.of(run(values, lambda: chain(80))).item() in (80, 81)
    with pytest.raises(NeedsValuesError, match="a value depends on too many others"):
        values.of(run(values, lambda: chain(81)))


def test_an_unknown_write_spoils_a_tensor_and_its_views() -> None:
    values = Values("meta")
    x, other = known(values, [1.0, 2.0, 3.0]), known(values, [4.0])

    def write() -> tuple[torch.Tensor, torch.Tensor]:
        view = x[1:]
        before = x * 2
        view.add_(meta(2))
        return view, before

    view, before = run(values, write)
    assert values.known(x) is None
    assert values.known(view) is None
    assert values.known(before) is not None
    assert values.known(other) is not None
    later = known(values, [5.0])
    assert values.known(later) is not None
    number = run(values, lambda: meta(2).argmax())
    run(values, lambda: number.add_(meta(1, dtype=torch.int64)[0]))
    assert values.of(number).item() in (0, 1)  # drawn, as is what is added


def test_a_known_write_is_followed() -> None:
    values = Values("meta")
    x = known(values, [1, 2, 3])

    def write() -> torch.Tensor:
        x[1:].mul_(2)
        x[0] = 7
        return x + 0

    assert values.of(run(values, write)).tolist() == [7, 4, 6]
    assert values._written == []  # of stand-ins


def test_an_overwritten_activation_is_known() -> None:
    values = Values("meta")

    def fill() -> tuple[torch.Tensor, ...]:
        return meta(3).fill_(2.0), meta(3).zero_(), meta(3).copy_(torch.ones(3)), meta(3).add_(1.0)

    filled, zero, copied, added = run(values, fill)
    assert values.of(filled).tolist() == [2.0] * 3
    assert values.of(zero).tolist() == [0.0] * 3
    assert values.of(copied).tolist() == [1.0] * 3
    assert values.known(added) is None


def test_an_activation_that_is_copied_is_unknown() -> None:
    values = Values("meta")
    target = known(values, [1.0, 2.0])
    run(values, lambda: target.copy_(meta(2)))
    assert values.known(target) is None


def test_float_results_are_followed_up_to_two_million_elements_and_whole_ones_further() -> None:
    for elements, floats, whole in ((2**21, True, True), (2**21 + 1, False, True), (MAX_ELEMENTS + 1, False, False)):
        values = Values("meta")
        made = run(values, lambda n=elements: (torch.zeros(1).expand(n).exp(), torch.zeros(1).expand(n).isnan()))
        assert [values.known(one) is not None for one in made] == [floats, whole]


def test_only_small_tensors_are_followed_once_many_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_TOTAL", 800)
    values = Values("meta")
    known(values, [0] * 100)
    assert values._limit(meta(1, dtype=torch.int64)) == MAX_ELEMENTS
    assert values._limit(meta(1)) == 2**21
    known(values, [0])
    assert values._limit(meta(1, dtype=torch.int64)) == values._limit(meta(1)) == 2**16


@pytest.mark.parametrize(
    ("made", "is_known"),
    [
        (lambda: torch.empty(3, dtype=torch.int64), True),  # about to be filled
        (lambda: torch.empty(2**16, dtype=torch.int64), True),
        (lambda: torch.empty(2**16 + 1, dtype=torch.int64), False),
        (lambda: torch.empty(3), False),
    ],
)
def test_an_empty_tensor_of_whole_numbers_is_zeros(made: Callable[[], torch.Tensor], is_known: bool) -> None:
    values = Values("meta")
    found = values.known(run(values, made))
    assert (found is not None) is is_known
    assert found is None or not found.any()


def test_constants_have_values() -> None:
    values = Values("meta")
    constant = run(values, lambda: torch.tensor([1.5, 2.5], requires_grad=True))
    assert (constant.is_meta, constant.requires_grad) == (True, True)
    assert values.of(constant).tolist() == [1.5, 2.5]
    on_cpu = run(values, lambda: torch.tensor([3, 4], device="cpu"))
    assert (on_cpu.device.type, on_cpu.tolist()) == ("cpu", [3, 4])
    elsewhere = run(values, lambda: torch.tensor([3, 4], device="cuda:1"))
    assert (elsewhere.device.type, values.of(elsewhere).tolist()) == ("meta", [3, 4])
    assert not run(values, lambda: torch.tensor(1.0)).requires_grad
    assert run(values, lambda: torch.scalar_tensor(3.0)).is_meta
    activation = meta(2)
    assert run(values, lambda: torch.as_tensor(activation)) is activation


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "mps", "xpu", "hpu", "npu", "xla", torch.device("cuda", 1)])
def test_other_devices_are_those_of_the_stand_ins(device: Any) -> None:
    values = Values("meta")
    x = known(values, [1.0])
    for call in (
        lambda: torch.zeros(2, device=device),
        lambda: x.to(device),
        lambda: x.to(device, torch.float64),
        lambda: x.to(device=device),
        lambda: x.cuda(),
        lambda: x.cuda(0),
    ):
        assert run(values, call).is_meta
    assert run(values, lambda: x.to(device, torch.float64)).dtype == torch.float64
    assert run(values, lambda: x.to(torch.float64)).dtype == torch.float64


def test_a_real_tensor_of_the_user_keeps_what_it_contained() -> None:
    values = Values("meta")
    real, fresh = torch.ones(3), torch.ones(2)
    with Following(values), ReadsValues(values):
        real.mul_(2)
        real.add_(1)
        assert real.tolist() == [3.0] * 3
        real.add_(fresh.sum())
        (fresh * 2).add_(1)
    assert [tensor is real for tensor, _ in values._written].count(True) == 1  # once, and no tensor that is only read
    assert not any(tensor is fresh for tensor, _ in values._written)
    values.put_back()
    assert real.tolist() == [1.0] * 3
    real.zero_()
    values.put_back()  # once
    assert real.tolist() == [0.0] * 3


def test_real_tensors_among_stand_ins_get_a_stand_in_with_their_values() -> None:
    values = Values("meta")
    real, tens = torch.tensor([1, 2]), known(values, [10, 20])
    one, two = (run(values, lambda: tens + real) for _ in range(2))
    assert [values.of(each).tolist() for each in (one, two)] == [[11, 22]] * 2
    assert values.on_host((real,), {}, real)
    assert not values.on_host((real, one), {}, one)
    assert not values.on_host((2.0,), {}, None)
    assert not values.on_host((real,), {"other": one}, real)
    assert not values.on_host(([real, one],), {}, real)


def test_a_mask_among_indices_becomes_positions() -> None:
    values = Values("meta")
    x, mask = meta(2, 3, 4), known(values, MASK)
    byte = known(values, torch.tensor([1, 0], dtype=torch.uint8))
    rows, columns, first = known(values, [True, False]), known(values, [True, False, True]), known(values, [0])
    assert run(values, lambda: x[mask]).shape == (3, 4)
    assert run(values, lambda: aten.index(x, [byte])).shape == (1, 3, 4)
    assert run(values, lambda: aten.index(x, [None, columns])).shape == (2, 2, 4)
    assert run(values, lambda: aten.index(x, [rows, None, first])).shape == (1, 3)
    filled = run(values, lambda: aten.index_put(x, [mask], meta(3, 4)))
    assert filled.shape == (2, 3, 4)


def test_lengths_pack_a_batch() -> None:
    values = Values("meta")
    data, sizes = values.answer("_pack_padded_sequence", (meta(5, 3, 7), torch.tensor([5, 2, 1]), False), {})
    assert tuple(data.shape) == (8, 7)
    assert sizes.tolist() == [3, 2, 1, 1, 1]
    assert sizes.device.type == "cpu"


def test_sizes_of_a_ctc_loss() -> None:
    values = Values("meta")
    for lengths in ([4, 6, 5], torch.tensor([4, 6, 5])):
        args = (meta(20, 3, 9), meta(3, 6, dtype=torch.int64), [20] * 3, lengths, 0, False)
        loss, alpha = values.answer("_ctc_loss", args, {})
        assert (tuple(loss.shape), tuple(alpha.shape)) == ((3,), (3, 20, 13))  # 2 x 6 + 1 states


def test_a_ctc_loss_without_samples_has_one_state() -> None:
    for lengths in ([], torch.tensor([], dtype=torch.int64)):
        args = (meta(20, 0, 9), meta(0, 6, dtype=torch.int64), [], lengths, 0, False)
        _, alpha = Values("meta").answer("_ctc_loss", args, {})
        assert tuple(alpha.shape) == (0, 20, 1)


def test_a_whole_number_copied_from_an_activation_is_drawn() -> None:
    values = Values("meta")
    target = known(values, [5])

    def copy() -> None:
        target.copy_(meta(1, 4).argmax(1))

    run(values, copy)
    written = values.known(target)
    assert written is not None
    assert 0 <= int(written) < 4
    assert values.drawn == 1


def test_an_op_that_fails_on_the_values_has_none() -> None:
    values = Values("meta")
    x, far = known(values, [1, 2]), known(values, [7])
    assert values.known(run(values, lambda: aten.index(x, [far]))) is None  # IndexError
    assert values.known(run(values, lambda: x.gather(0, far))) is None  # RuntimeError


def test_a_value_that_follows_from_a_large_activation_is_refused() -> None:
    values = Values("meta")
    assert values.of(run(values, lambda: meta(1).expand(MAX_ELEMENTS).argmax())).shape == ()
    with pytest.raises(NeedsValuesError, match="the values of a tensor of 8,388,609 elements are read"):
        values.of(run(values, lambda: meta(1).expand(MAX_ELEMENTS + 1).argmax()))


def test_the_users_generator_and_device_are_left_out_of_a_computation() -> None:
    given = {"device": "meta", "dtype": torch.int64, "generator": 3, "pin_memory": False}
    assert module._on_cpu(given) == {"device": torch.device("cpu"), "dtype": torch.int64, "pin_memory": False}
    assert module._on_cpu({"generator": 3, "device": None}) == {"device": None}
    generator = torch.Generator().manual_seed(1)
    state = generator.get_state()
    drawn = run(Values("cpu"), lambda: torch.rand(3, generator=generator, device="cpu"))
    assert drawn.shape == (3,)
    assert not torch.equal(state, generator.get_state())  # the op itself uses it


def test_fake_constants_are_stand_ins_whatever_device_is_asked_for() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        values = Values("cpu")
        with Following(values), ReadsValues(values):
            made = [torch.tensor([3, 4]), torch.tensor([3, 4], device="cpu")]
        assert [type(one) for one in made] == [FakeTensor] * 2
        assert [values.of(one).tolist() for one in made] == [[3, 4]] * 2


def test_the_compiler_sees_the_mode() -> None:
    assert Following._should_skip_dynamo() is False


def test_inputs_made_on_meta() -> None:
    lengths, data, scale = made_on_meta(lambda: (torch.tensor([3, 1]), torch.zeros(2, 3), torch.tensor(2.0)))
    assert lengths.tolist() == [3, 1]
    assert data.is_meta
    assert scale.is_meta


@pytest.mark.parametrize(
    ("name", "first", "device", "expected"),
    [
        ("zeros", [2], "cuda", "meta"),
        ("zeros", [2], "cpu", "cpu"),
        ("zeros", [2], "meta", "meta"),
        ("_to_copy", meta(2), "cpu", "meta"),
        ("_to_copy", meta(2), "cuda", "meta"),
        ("_to_copy", torch.zeros(2), "cpu", "cpu"),  # a real tensor stays real
        ("_to_copy", torch.zeros(2), "cuda", "meta"),
    ],
)
def test_the_device_of_an_op(name: str, first: Any, device: str, expected: str) -> None:
    func = getattr(aten, name).default
    _, kwargs = Values("meta").prepared(func, name, (first,), {"device": torch.device(device)})
    assert kwargs["device"].type == expected
