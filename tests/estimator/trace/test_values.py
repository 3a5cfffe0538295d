"""Values that a forward reads are known, drawn or computed, without a real run."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.values import Following, ReadsValues, RealNumbers, Values, made_on_meta


class Reads(nn.Module):
    """Two layers of 10 x 10; `use` gets the model, the input and the first layer's output."""

    def __init__(self, use: Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False)
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.register_buffer("count", torch.tensor(4))
        self.kept = (torch.arange(6),)  # in a tuple, where no stand-in is put
        self.use = use

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.use(self, x, self.first(x)))


def rows(model: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return y[: int(torch.unique(torch.arange(len(x)) // 2).max()) + 1]


READS = {
    "unique": (rows, 4),
    "item": (lambda m, x, y: y * torch.tensor(2.0).item(), 8),
    "chance": (lambda m, x, y: y if torch.rand([]) < 2.0 else y[:1], 8),
    "never": (lambda m, x, y: y[:1] if torch.rand([]) < 0.0 else y, 8),
    "python": (lambda m, x, y: y if random.random() < 2.0 else y[:1], 8),
    "buffer": (lambda m, x, y: y[: m.count.item()], 4),
    "parameter": (lambda m, x, y: y[: int(m.scale)], 3),
    "mask": (lambda m, x, y: y[torch.arange(8) < 5], 5),
    "nonzero": (lambda m, x, y: y[(torch.arange(8) % 2).nonzero().flatten()], 4),
    "where": (lambda m, x, y: y[torch.where(torch.tensor([True, False, True, True] * 2))[0]], 6),
    "tolist": (lambda m, x, y: torch.cat([y[:n] for n in torch.tensor([1, 2]).tolist()]), 3),
    "numpy": (lambda m, x, y: y[: int(torch.arange(3).numpy().max())], 2),
    "in place": (lambda m, x, y: y[: int(torch.empty(3, dtype=torch.long).fill_(2).add_(1).sum() // 3)], 3),
    "view written": (lambda m, x, y: y[: written().sum()], 5),
    "equal": (lambda m, x, y: y[:2] if torch.equal(torch.ones(3), torch.ones(3)) else y, 2),
    "in a tuple": (lambda m, x, y: y[m.kept[0]], 6),
    "host": (lambda m, x, y: y[: int(torch.full((2,), 3, device=x.device).cpu()[0])], 3),
    "repeat": (lambda m, x, y: y.repeat_interleave(torch.tensor([1, 0, 2, 0, 0, 0, 0, 1]), 0), 4),
    "finite": (lambda m, x, y: y[:1] if not torch.isfinite(y).all() else y, 8),
    "not a number": (lambda m, x, y: y[:1] if y.isnan().any() else y, 8),
    "assertion": (lambda m, x, y: checked(y), 8),
}


def written() -> torch.Tensor:
    table = torch.zeros(4, dtype=torch.long)
    table[1:3] = 2
    table[0] += 1
    return table


def checked(y: torch.Tensor) -> torch.Tensor:
    assert y.abs().max() >= 0
    assert (y == y).all()
    return y


@pytest.mark.parametrize("precision", [None, "bfloat16"])
@pytest.mark.parametrize("name", READS)
def test_a_value_read_does_not_need_a_real_run(name: str, precision: str | None) -> None:
    use, left = READS[name]
    work = trace(Reads(use), torch.zeros(8, 10), layers=False, precision=precision)
    assert work.tracer == ("meta" if precision is None else "fake")
    assert sum(op.flops * op.count for op in work.ops if op.phase == "forward" and op.kind == "matmul") == (
        (8 + left) * 100
    )


class Routed(nn.Module):
    """Each token goes to one of four experts, which the model finds with its own scores."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, 4, bias=False)
        self.experts = nn.ModuleList(nn.Linear(16, 16, bias=False) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen = self.gate(x).softmax(-1).topk(1).indices[:, 0]
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            mine = (chosen == number).nonzero()[:, 0]
            if len(mine):
                out.index_add_(0, mine, expert(x[mine]))
        return out


def test_a_router_spreads_its_tokens() -> None:
    work = trace(Routed(), torch.zeros(400, 16), layers=False)
    assert work.forward_flops == 400 * 16 * 4 + 400 * 16 * 16
    by_expert = [op.flops // 256 for op in work.ops if op.phase == "forward" and op.layer.startswith("experts")]
    assert len(by_expert) == 4
    assert all(60 < tokens < 140 for tokens in by_expert)
    assert any("depend on its activations" in note for note in work.warnings)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 8, batch_first=True)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        padded, self.lengths = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=9)
        assert padded.shape == (len(lengths), 9, 8)
        assert self.lengths.tolist() == lengths.tolist()
        return padded


def test_packed_sequences_cost_their_tokens_and_stay_one_op() -> None:
    work = trace(Packed(), (torch.zeros(3, 7, 4), torch.tensor([2, 7, 4])))
    assert work.forward_flops == (2 + 7 + 4) * 4 * 8 * (4 + 8)
    assert [op.name for op in work.ops if op.kind == "rnn"] == ["lstm", "lstm_backward"]
    # 13 tokens of at most 3 sequences at a time
    sizes = {"steps": 13 // 3, "n": 3, "input": 4, "hidden": 8, "layers": 1, "directions": 1}
    assert [op.dims for op in work.ops if op.kind == "rnn"] == [sizes] * 2
    tokens, padded = 2 + 7 + 4, 3 * 9
    moved = {op.name: (op.bytes_read, op.bytes_written) for op in work.ops if "packed_sequence" in op.name}
    assert moved == {
        "_pad_packed_sequence": (tokens * 8 * 4, padded * 8 * 4),
        "_pad_packed_sequence_backward": (padded * 8 * 4, tokens * 8 * 4),
    }


class OnTheCpu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        order = torch.tensor([2, 0, 1], device="cpu").sort().indices
        return self.out(x[order.tolist()])


def test_work_on_numbers_that_stay_on_the_cpu_costs_nothing() -> None:
    work = trace(OnTheCpu(), torch.zeros(3, 4))
    assert work.tracer == "meta"
    assert "sort" not in {op.name for op in work.ops}


class PacksWhatItLearns(Packed):
    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return super().forward(self.rnn(torch.cat([x, x], -1)[..., :4])[0][..., :4], lengths)


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_packing_has_one_op_in_backward_whatever_the_length(precision: str | None) -> None:
    work = trace(PacksWhatItLearns(), (torch.zeros(3, 7, 4), torch.tensor([2, 7, 4])), precision=precision)
    names = [op.name for op in work.ops if op.phase == "backward"]
    assert names.count("_pack_padded_sequence_backward") == 1
    assert names.count("copy_") <= 2


class Speech(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor, labels: torch.Tensor, lengths: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.out(x).log_softmax(-1).transpose(0, 1)
        frames = torch.full((x.shape[0],), x.shape[1], dtype=torch.long)
        return {"loss": F.ctc_loss(scores, labels, frames, lengths)}


def test_a_ctc_loss_is_read_without_values() -> None:
    work = trace(Speech(), (torch.zeros(2, 30, 8), torch.ones(2, 6, dtype=torch.long), torch.tensor([6, 4])))
    assert work.tracer == "meta"
    assert work.forward_flops == 2 * 30 * 8 * 5


def test_attention_of_torchs_own_layers_is_one_op() -> None:
    work = trace(nn.TransformerEncoderLayer(16, 4, batch_first=True), torch.zeros(2, 5, 16), layers=False)
    assert [op.name for op in work.ops if op.kind == "attention"] == ["attention", "attention_backward"]


def test_inputs_made_on_meta_keep_their_whole_numbers() -> None:
    def made() -> Any:
        return torch.randn(2, 10**12), {"lengths": torch.full((3,), 7), "ids": torch.randint(5, (2, 2))}

    data, others = made_on_meta(made)
    assert data.is_meta
    assert others["lengths"].tolist() == [7, 7, 7]
    assert int(others["ids"].max()) < 5


def test_real_tensors_of_the_user_are_not_written() -> None:
    table = torch.zeros(4)

    def use(model: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        table.add_(1)
        (model.kept[0]).mul_(2)
        return y

    model = Reads(use)
    trace(model, torch.zeros(8, 10), layers=False)
    assert table.tolist() == [0, 0, 0, 0]
    assert model.kept[0].tolist() == [0, 1, 2, 3, 4, 5]


class OnlyReal(nn.Module):
    """Rejects stand-ins, like code that calls a compiled library."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_meta or type(x) is not torch.Tensor:
            raise RuntimeError("no stand-ins")
        if len(x) > 4:
            raise RuntimeError("a real run of the whole batch")
        return self.layers(x)


def test_a_real_run_is_one_of_few_samples() -> None:
    class Net(OnlyReal):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

    real, meta = (trace(net, torch.zeros(64, 3, 8), layers=False) for net in (OnlyReal(), Net()))
    assert (real.tracer, meta.tracer) == ("real", "meta")
    assert (real.flops, real.batch_size, real.activation_bytes) == (meta.flops, 64, meta.activation_bytes)
    assert real.layers == meta.layers or [layer.flops for layer in real.layers[1:]] == [
        layer.flops for layer in meta.layers[1:]
    ]


def test_whole_numbers_filled_into_an_empty_tensor_are_known() -> None:
    """Spatial shapes, as detection models collect them."""

    class Sizes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shapes = torch.empty((2, 2), dtype=torch.long, device=x.device)
            for level, size in enumerate((3, 5)):
                shapes[level, 0], shapes[level, 1] = size, 2
            for _ in range(int(shapes.prod(1).sum())):
                x = self.layer(x)
            return x

    work = trace(Sizes(), torch.zeros(2, 4), layers=False)
    assert work.tracer == "meta"
    assert work.forward_flops == (3 * 2 + 5 * 2) * 2 * 4 * 4


class ExpertsByLists(nn.Module):
    """A router that reads the number of tokens of each expert off one-hot rows, as JetMoe does."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(4, 3, bias=False)
        self.experts = nn.ModuleList(nn.Linear(4, 8, bias=False) for _ in range(3))

    def forward(self, x):
        chosen = self.router(x).topk(2, dim=1).indices
        rows = torch.zeros(len(x), 3).scatter(1, chosen, 1)
        sizes = rows.long().sum(0).tolist()
        assert sum(sizes) == 2 * len(x)
        order = chosen.flatten().sort().indices // 2
        return torch.cat([expert(part) for expert, part in zip(self.experts, x[order].split(sizes), strict=True)])


def test_one_hot_rows_of_chosen_experts_have_values():
    work = trace(ExpertsByLists(), torch.zeros(50, 4), layers=False)
    assert work.tracer == "meta"
    # 50 tokens to 3 scores, and each to two experts
    assert work.forward_flops == 50 * 4 * 3 + 2 * 50 * 4 * 8


class ExpertsByName(nn.Module):
    """Experts in a dictionary, under the names that formatted numbers give."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(8, 4, bias=False)
        self.experts = nn.ModuleDict({f"expert_{index}": nn.Linear(8, 8, bias=False) for index in range(4)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen = self.router(x).argmax(-1)
        out = torch.zeros_like(x)
        for index in chosen.unique():
            assert f"{index:03d}" == f"{index.item():03d}"
            rows = torch.where(chosen == index)[0]
            out = out.index_add(0, rows, self.experts[f"expert_{index}"](x[rows]))
        return out


def test_a_number_in_a_text_has_its_value() -> None:
    with torch.device("meta"):
        model, x = ExpertsByName(), torch.zeros(64, 8)
    work = trace(model, x, layers=False)
    assert work.tracer == "meta"
    assert work.forward_flops == 64 * 8 * (4 + 8)


class CountsPlaceholders(nn.Module):
    """Checks the number of embedded placeholders with a mask as wide as the embedding, as multimodal models do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 4096)

    def forward(self, ids):
        embedded = self.embed(ids)
        mask = (ids == 5).unsqueeze(-1).expand_as(embedded)
        picked = embedded[mask]
        assert picked.numel() == 3 * 4096 * len(ids)
        return picked


def test_a_mask_expanded_over_the_width_is_counted_and_never_stored():
    ids = torch.tensor([5, 5, 5] + [1] * 61).expand(64, 64)  # the mask has 16.8 million elements
    work = trace(CountsPlaceholders(), {"ids": ids}, layers=False)
    assert work.tracer == "meta"
    assert work.activation_bytes < 2**30


def test_single_numbers_keep_their_values_on_the_meta_device():
    with torch.device("meta"), RealNumbers():
        numbers = [torch.tensor(3), torch.tensor(0.5), torch.tensor(True)]
        others = [torch.tensor([3]), torch.zeros(()), torch.tensor(3, device="meta")]
    assert [number.item() for number in numbers] == [3, 0.5, True]
    assert all(other.is_meta for other in others)


class SplitsByAList(nn.Module):
    """Splits at lengths in a tensor that was made of a list of numbers and one-element tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2, bias=False)

    def forward(self, x, lengths):
        ends = torch.tensor([0, *lengths]).cumsum(0)
        return torch.cat([self.layer(part) for part in x.split((ends[1:] - ends[:-1]).tolist())[1:]])


def test_a_tensor_of_a_list_with_tensors_has_their_values():
    work = trace(SplitsByAList(), {"x": torch.zeros(7, 3), "lengths": torch.tensor([2, 5])}, batch_size=7, layers=False)
    assert work.tracer == "meta"
    assert work.forward_flops == 5 * 3 * 2  # of the second part


class ReadsALargeSum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        shares = (x * self.weight > 0).float().mean(1)  # of two rows of 2**22 + 1 elements
        assert all(0 <= share <= 1 for share in shares.tolist())
        return x * self.weight


def test_a_float_that_follows_from_too_large_a_mask_is_drawn():
    work = trace(ReadsALargeSum(), torch.zeros(2, 2**22 + 1, device="meta"), layers=False)
    assert work.tracer == "meta"


class Durations(nn.Module):
    """Speaks each token for a number of frames that it predicts, as VITS does."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.durations, self.speak = nn.Embedding(10, 64), nn.Linear(64, 1), nn.Linear(64, 80)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        states = self.embed(ids)
        frames = torch.ceil(self.durations(states).exp()).squeeze(-1)
        length = int(torch.clamp_min(frames.sum(1), 1).long().max())
        return self.speak(states.mean(1, keepdim=True).expand(-1, length, -1))


@pytest.mark.parametrize("frames", [1, 2])
def test_predicted_lengths_are_whole_frames_a_token(frames: int) -> None:
    model = Durations()
    nn.init.zeros_(model.durations.weight)
    nn.init.constant_(model.durations.bias, math.log(frames - 0.5))  # rounded up
    work = trace(model, torch.zeros(4, 50, dtype=torch.int64), train=False, layers=False)
    assert work.tracer == "meta"
    spoken = sum(op.flops for op in work.ops if op.layer == "speak") // (64 * 80)
    assert spoken == 4 * 50 * frames


class Keypoints(nn.Module):
    """Local maxima in windows of 9 x 9, of which there is at most one in 5 x 5 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.scores, self.describe = nn.Conv2d(3, 1, 3, padding=1), nn.Linear(1, 256)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = self.scores(images).sigmoid().squeeze(1)
        highest = scores == nn.functional.max_pool2d(scores, 9, stride=1, padding=4)
        kept = torch.where(highest, scores, torch.zeros_like(scores))
        return self.describe(kept[0][kept[0] > 0.005][:, None])


@pytest.mark.parametrize("train", [True, False])
def test_local_maxima_are_few(train: bool) -> None:
    work = trace(Keypoints(), torch.zeros(2, 3, 90, 90), train=train, layers=False)
    assert work.tracer == "meta"
    points = next(op.flops for op in work.ops if op.layer == "describe" and op.name == "addmm") // 256
    assert 90 * 90 / 81 <= points <= 90 * 90 / 25


def test_pooled_activations_are_no_values() -> None:
    values = Values("meta")
    with Following(values), ReadsValues(values):
        images = torch.empty(2, 3, 32, 32, device="meta")
        pooled = nn.functional.max_pool2d(images, 2)
        assert not values.follows(pooled)
        assert not values.follows(pooled * 2)
        assert values.follows(pooled > 0.5)


class Pruned(nn.Module):
    """Keeps the points of each sample that a layer trusts, in two rounds, padded to the longest sample."""

    def __init__(self) -> None:
        super().__init__()
        self.trust, self.describe = nn.Linear(64, 1), nn.Linear(64, 64)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        kept = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)
        for _ in range(2):
            trusted = (self.trust(points).sigmoid().squeeze(-1) > 0.1) & kept
            points = nn.utils.rnn.pad_sequence(
                [one[mask] for one, mask in zip(points, trusted, strict=True)], batch_first=True
            )
            kept = nn.utils.rnn.pad_sequence([one[one] for one in trusted], batch_first=True)
        return self.describe(points)


def test_masks_of_chosen_items_keep_their_values_when_they_are_padded() -> None:
    work = trace(Pruned(), torch.zeros(4, 100, 64), train=False, layers=False)
    assert work.tracer == "meta"
    points = next(op.flops for op in work.ops if op.layer == "describe") // 64**2
    assert 4 * 70 < points <= 4 * 100  # about 81 of 100


def test_new_values_are_known_wherever_spoilt_ones_lay() -> None:
    """The memory of a mask whose values were forgotten is used again for other values."""
    values = Values("meta")
    for value in range(200):
        stand_in = values.stand_in_for(torch.tensor([value]))
        assert values.known(stand_in).tolist() == [value]
        values.forget(stand_in)
        assert values.known(stand_in) is None
        values._set(stand_in, torch.tensor([-1]))  # frees the first values
        assert values.known(stand_in).tolist() == [-1]
