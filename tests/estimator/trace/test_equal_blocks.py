"""Equal blocks are traced once: the workload is that of a full trace, and the model is left as it was."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from joulecast.estimator.trace import parts, step, values
from joulecast.estimator.trace.trace import trace

from .block_networks import COUNT, DATA, WIDTH, Block, Net, blocks, same_as_in_full


def test_five_of_eight_blocks_are_left_out_and_all_are_listed(monkeypatch, left_out):
    work = same_as_in_full(monkeypatch, Net(blocks()))
    assert left_out == [COUNT - 3]
    counts = Counter((op.layer, op.phase) for op in work.ops)
    for number in range(COUNT):
        # addmm forward; two products and the sum over the bias backward
        assert counts[f"blocks.{number}.up", "forward"] == 1
        assert counts[f"blocks.{number}.up", "backward"] == 3
        assert counts[f"blocks.{number}.up", "optimizer"] == 2
    # 4 x 80 positions: two products of 32 x 64 and a norm (5 for each element) in each block, the embedding, the head
    block = 320 * 2 * 32 * 64 + 5 * 320 * 32
    assert work.forward_flops == COUNT * block + 320 * 32 * 32 + 4 * 32 * 10
    rows = {layer.path: layer for layer in work.layers}
    assert all(rows[f"blocks.{number}.down"].output_shape == (4, 80, 32) for number in range(COUNT))
    assert rows["blocks.5"].flops == block


@pytest.mark.parametrize(
    "options",
    [
        {"train": False},
        {"precision": "bfloat16"},
        {"optimizer": "adamw", "accumulate": 4, "clip_gradients": True, "ema": True},
        {"loss": lambda output: output.sum()},
    ],
    ids=["inference", "autocast", "accumulation", "loss"],
)
def test_options_of_a_step(monkeypatch, left_out, options):
    same_as_in_full(monkeypatch, Net(blocks(dropout=0.1)), **options)
    assert left_out == [COUNT - 3]


def test_a_sequential_and_an_input_without_gradient(monkeypatch, left_out):
    same_as_in_full(monkeypatch, nn.Sequential(*blocks()))
    assert left_out == [COUNT - 4]  # the first block is of another kind: its input has no gradient


def test_torch_encoder(monkeypatch, left_out):
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 64, batch_first=True)
    same_as_in_full(monkeypatch, nn.TransformerEncoder(layer, COUNT, enable_nested_tensor=False))
    assert left_out == [COUNT - 4]


def test_bottlenecks_of_a_residual_network(monkeypatch, left_out):
    class Bottleneck(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(16, 4, 1, bias=False), nn.Conv2d(4, 16, 3, padding=1, bias=False)
            self.norm, self.relu = nn.BatchNorm2d(16), nn.ReLU(inplace=True)

        def forward(self, images):
            return self.relu(self.norm(self.two(self.one(images))) + images)

    stem, head = nn.Conv2d(3, 16, 3), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    model = nn.Sequential(stem, *[Bottleneck() for _ in range(COUNT)], head)
    same_as_in_full(monkeypatch, model, torch.zeros(4, 3, 34, 34))
    assert left_out == [COUNT - 4]  # the input of the first block is not kept by the layer before it
    same_as_in_full(monkeypatch, model, torch.zeros(4, 3, 34, 34), train=False)


class InBlock(nn.Module):
    """A layer in a block, made by hand as PEFT does."""

    def __init__(self, base):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a, self.b = nn.Linear(base.in_features, 4, bias=False), nn.Linear(4, base.out_features, bias=False)

    def forward(self, data):
        return self.base(data) + self.b(self.a(data))


def test_adapters_on_some_blocks(monkeypatch, left_out):
    model = Net(blocks(count=12)).requires_grad_(False)
    for block in model.blocks[6:]:
        block.up = InBlock(block.up)
    same_as_in_full(monkeypatch, model)
    # 6 frozen blocks: 3 run. Of those with adapters, the first has an input without gradient: 4 run.
    assert left_out == [3 + 2]


def test_frozen_blocks(monkeypatch, left_out):
    model = Net(blocks(count=12))
    model.embed.requires_grad_(False)
    for block in model.blocks[:6]:
        block.requires_grad_(False)
    work = same_as_in_full(monkeypatch, model)
    assert left_out == [3 + 2]
    assert not [op for op in work.ops if op.phase == "backward" and op.layer.startswith("blocks.4")]
    assert [op for op in work.ops if op.phase == "optimizer" and op.layer.startswith("blocks.9")]


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_inside_of_the_blocks(monkeypatch, left_out, reentrant):
    class Checkpointed(Block):
        def forward(self, data):
            return checkpoint(super().forward, data, use_reentrant=reentrant)

    work = same_as_in_full(monkeypatch, Net(blocks(Checkpointed)))
    assert left_out == [COUNT - 3]
    again = [op for op in work.ops if op.layer == "blocks.4.up" and op.phase == "backward"]
    assert len(again) == 4  # the product runs again, then the three of backward


def test_checkpointing_of_the_model_adapter(monkeypatch, left_out):
    from joulecast.estimator.model.adapt import adapt

    model = Net(blocks())
    adapt(model, checkpointing=True)
    same_as_in_full(monkeypatch, model)
    assert left_out == [COUNT - 3]


def test_settings_that_alternate_are_two_groups(monkeypatch, left_out):
    class Windowed(Block):
        def __init__(self, number):
            super().__init__(number)
            self.window = 16 if number % 2 else None

        def forward(self, data):
            shown = data if self.window is None else data[:, -self.window :]
            return data + super().forward(shown).mean(1, keepdim=True)

    work = same_as_in_full(monkeypatch, Net(blocks(Windowed, count=12)))
    assert left_out == [2 * (6 - 3)]
    flops = {layer.path: layer.flops for layer in work.layers}
    assert flops["blocks.6"] == 5 * flops["blocks.7"] == 5 * flops["blocks.5"]


def test_a_tensor_shared_by_all_blocks(monkeypatch, left_out):
    """Its gradients are added up, but for that of the last block, which comes first."""

    class Biased(Block):
        def forward(self, data, bias):
            return super().forward(data) + bias

    class Sharing(Net):
        def forward(self, data):
            bias, data = self.embed(data), self.embed(data) + 1
            for block in self.blocks:
                data = block(data, bias)
            return self.head(data.mean(1))

    same_as_in_full(monkeypatch, Sharing(blocks(Biased)))
    assert left_out == [COUNT - 3]


def _language_model(name, **options):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(**options)
    kinds = {"GPT2": "LMHeadModel", "Bart": "ForConditionalGeneration", "T5": "ForConditionalGeneration"}
    kind = kinds.get(name, "ForCausalLM")
    with torch.device("meta"):
        return getattr(transformers, f"{name}{kind}")(config)


_TOKENS = {"input_ids": torch.zeros(2, 64, dtype=torch.int64)}
_SIZES = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_hidden_layers": COUNT}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Llama", _SIZES),
        ("Mixtral", {**_SIZES, "num_key_value_heads": 2}),
        ("Mamba", {"hidden_size": 256, "num_hidden_layers": COUNT}),
        ("GPT2", {"n_embd": 256, "n_head": 4, "n_layer": COUNT}),
        ("Bloom", {"hidden_size": 256, "n_head": 4, "n_layer": COUNT}),
    ],
)
def test_language_models_whose_blocks_fill_a_cache(monkeypatch, left_out, name, options):
    same_as_in_full(monkeypatch, _language_model(name, **options), _TOKENS)
    assert left_out[0] in (COUNT - 4, COUNT - 3)


_TWO_ENTRIES = {
    "hidden_size": 64,
    "ffn_hidden_size": 64,
    "expert_ffn_hidden_size": 32,
    "num_layers": COUNT,
    "num_hidden_layers": 2 * COUNT,
    "num_attention_heads": 4,
    "n_routed_experts": 4,
    "zero_expert_num": 2,
    "moe_topk": 2,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "vocab_size": 100,
}


def _with_two_entries():
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        return transformers.LongcatFlashModel(transformers.LongcatFlashConfig(**_TWO_ENTRIES))


def _counts(work):
    return Counter((op.layer, op.name, op.phase) for op in work.ops)


def _same_but_for_the_draws(one, two):
    """Which expert gets how many tokens differs between traces, and zero experts compute nothing."""
    assert _counts(one) == _counts(two)
    assert one.parameters == two.parameters
    for name in ("forward_flops", "flops", "bytes_moved", "activation_bytes"):
        assert getattr(one, name) == pytest.approx(getattr(two, name), rel=0.01), name


def test_a_number_of_the_block_that_names_no_entry_of_a_cache(monkeypatch, left_out):
    """A block of LongCat has its own number and those of its two attentions; only the latter name its entries."""
    fast = trace(_with_two_entries(), _TOKENS, layers=False)
    assert left_out == [COUNT - 3]
    monkeypatch.setattr(step, "_listed", lambda *args: step._run(*args[:4]))
    _same_but_for_the_draws(fast, trace(_with_two_entries(), _TOKENS, layers=False))


def test_blocks_that_are_equal_for_two_samples_are_so_for_four(monkeypatch, left_out):
    """Of eight samples, the one-hot vectors of all choices are too many: the step is read by two and by four."""
    inputs = {"input_ids": torch.zeros(8, 64, dtype=torch.int64)}
    in_full = trace(_with_two_entries(), inputs, layers=False)
    left_out.clear()
    monkeypatch.setattr(parts, "_MOST", 4 * 64 * 2 * 6)
    for owner, name in ((values, "MAX_ELEMENTS"), (parts, "_PART")):
        monkeypatch.setattr(owner, name, 3000)
    few = trace(_with_two_entries(), inputs, layers=False)
    assert left_out == [COUNT - 3, COUNT - 2]
    _same_but_for_the_draws(few, in_full)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Bart", {"d_model": 128, "encoder_layers": COUNT, "decoder_layers": COUNT, "vocab_size": 100}),
        ("T5", {"d_model": 128, "d_kv": 32, "num_heads": 4, "num_layers": COUNT + 1, "vocab_size": 100}),
    ],
)
def test_encoder_decoders_whose_blocks_fill_two_caches(monkeypatch, left_out, name, options):
    """Two rows of blocks; the first of T5's alone has the table of positions."""
    model = _language_model(name, **options)
    for inputs in (_TOKENS | {"decoder_input_ids": torch.ones(2, 48, dtype=torch.int64)},):
        same_as_in_full(monkeypatch, model, inputs)
        assert left_out.pop() in (2 * (COUNT - 4), 2 * COUNT - 7, 2 * (COUNT - 3))


class TwoStacks(nn.Module):
    """The second stack attends to the keys and values of the first, as the action expert of pi0 does."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (_language_model("Llama", **_SIZES, vocab_size=100).model for _ in range(2))

    def forward(self, input_ids):
        cache = self.first(input_ids, use_cache=True).past_key_values
        return self.second(input_ids[:, :8], past_key_values=cache).last_hidden_state


def test_a_second_stack_that_reads_the_cache_of_the_first(monkeypatch, left_out):
    work = same_as_in_full(monkeypatch, TwoStacks(), _TOKENS)
    assert not any(left_out)
    read = [op.dims["s"] for op in work.ops if op.kind == "attention" and op.layer.startswith("second.")]
    assert set(read) == {64 + 8}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_language_model_with_checkpoints(monkeypatch, left_out, reentrant):
    model = _language_model("Llama", **_SIZES)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    same_as_in_full(monkeypatch, model, _TOKENS)
    assert left_out == [COUNT - 3]


def test_a_language_model_that_scales_by_the_number_of_its_block(monkeypatch, left_out):
    sizes = {"n_embd": 256, "n_head": 4, "n_layer": COUNT}
    same_as_in_full(monkeypatch, _language_model("GPT2", **sizes, scale_attn_by_inverse_layer_idx=True), _TOKENS)
    assert left_out == [0]


def test_equal_sets_in_another_order(monkeypatch, left_out):
    class Chosen(Block):
        def __init__(self, number):
            super().__init__(number)
            self.chosen = {0, 8} if number % 2 else {8, 0}

    assert list({0, 8}) != list({8, 0})
    same_as_in_full(monkeypatch, Net(blocks(Chosen)))
    assert left_out == [COUNT - 3]


def test_an_attribute_that_an_init_alone_looks_up(monkeypatch, left_out):
    class Looking(Block):
        def __init__(self, number):
            super().__init__(number)
            assert vars(self)["number"] == number

    same_as_in_full(monkeypatch, Net(blocks(Looking)))
    assert left_out == [COUNT - 3]


def test_blocks_that_return_more_than_their_result(monkeypatch, left_out):
    """Texts, nothing, tuples, and arguments, each the one that a full trace returns."""

    class Wide(Block):
        def forward(self, data, pair, *, scale):
            return "text", (super().forward(data), pair[1], None), scale, pair[0]

    class Passing(Net):
        def forward(self, data):
            first, second, scale = self.embed(data) + 1, self.embed(data) + 2, self.embed(data)
            data = first + second + scale
            for block in self.blocks:
                text, (data, other, nothing), same, one = block(data, (first, second), scale=scale)
                if (text, nothing) != ("text", None) or other is not second or same is not scale or one is not first:
                    raise ValueError("not what the block returns")
            return self.head(data.mean(1))

    same_as_in_full(monkeypatch, Passing(blocks(Wide)))
    assert left_out == [COUNT - 3]


def test_results_that_nothing_uses_are_not_kept(monkeypatch, left_out):
    """Their memory is used again, by tensors of other blocks among others."""

    class Wasting(Block):
        def forward(self, data):
            wasted = [torch.log(data + number) for number in range(40)]
            del wasted
            return super().forward(data)

    wasting = same_as_in_full(monkeypatch, Net(blocks(Wasting)))
    plain = same_as_in_full(monkeypatch, Net(blocks()))
    assert wasting.activation_bytes == plain.activation_bytes
    assert left_out == [COUNT - 3] * 2


def test_a_learnt_input_of_the_first_block(monkeypatch, left_out):
    class Learnt(Net):
        def __init__(self, blocks):
            super().__init__(blocks)
            self.queries = nn.Parameter(torch.zeros(1, 256, WIDTH))

        def forward(self, data):
            data = self.queries.expand(len(data), -1, -1)
            for block in self.blocks:
                data = block(data)
            return self.head(data.mean(1))

    same_as_in_full(monkeypatch, Learnt(blocks()))
    assert left_out == [COUNT - 4]  # the first input is a view


def test_blocks_whose_attention_has_a_mask_of_blocks(monkeypatch, left_out):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    class Attending(Block):
        def forward(self, data, mask):
            heads = data.unflatten(-1, (2, -1)).transpose(1, 2)
            return super().forward(flex_attention(heads, heads, heads, block_mask=mask).transpose(1, 2).flatten(2))

    class Masked(Net):
        def forward(self, data):
            mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, 80, 80, device=data.device)
            data = self.embed(data) + 1
            for block in self.blocks:
                data = block(data, mask)
            return self.head(data.mean(1))

    work = same_as_in_full(monkeypatch, Masked(blocks(Attending)))
    assert left_out == [COUNT - 3]
    assert len([op for op in work.ops if op.kind == "attention"]) == 2 * COUNT


class Windowed(Block):
    """Attends within windows, as vision towers do; their lengths are read from an argument."""

    def forward(self, data, lengths):
        parts = data.split(lengths.tolist(), dim=1)
        attend = nn.functional.scaled_dot_product_attention
        return super().forward(torch.cat([attend(part, part, part) for part in parts], 1))


class Windows(Net):
    """Every fourth block sees the whole."""

    def forward(self, data):
        windows, whole = (torch.full((80 // size,), size, device=data.device) for size in (10, 80))
        data = self.embed(data) + 1
        for number, block in enumerate(self.blocks):
            data = block(data, whole if number % 4 == 3 else windows)
        return self.head(data.mean(1))


def test_blocks_that_are_called_in_two_ways_and_read_an_argument(monkeypatch, left_out):
    work = same_as_in_full(monkeypatch, Windows(blocks(Windowed, count=16)))
    assert left_out == [(12 - 2) + (4 - 3)]  # two of each way run, and the last
    calls = [op for op in work.ops if op.name == "attention" and op.phase == "forward"]
    assert len(calls) == 12 * 8 + 4


def test_blocks_of_which_no_two_are_equal_beside_those_that_are(monkeypatch, left_out):
    """A call of its own kind, five times, ends only the search for its like."""

    class Sometimes(Block):
        def forward(self, data, scale):
            return super().forward(data * scale if scale > 1 else data)

    class Scaled(Net):
        def forward(self, data):
            data = self.embed(data) + 1
            for number, block in enumerate(self.blocks):
                data = block(data, float(number) if number % 3 == 2 else 1.0)
            return self.head(data.mean(1))

    same_as_in_full(monkeypatch, Scaled(blocks(Sometimes, count=18)))
    assert left_out == [12 - 2]


class Weighing(Block):
    """Returns the weights of its attention, as models with their own attention do."""

    def forward(self, data):
        weights = (data @ data.transpose(1, 2)).softmax(-1)
        return super().forward(weights @ data), weights


class Weighed(Net):
    uses = staticmethod(lambda weights: 0.0)

    def forward(self, data):
        data, used = self.embed(data) + 1, 0.0
        for block in self.blocks:
            data, weights = block(data)
            used = used + self.uses(weights)
        return self.head(data.mean(1)) + used


def test_attention_weights_that_nothing_uses(monkeypatch, left_out):
    same_as_in_full(monkeypatch, Weighed(blocks(Weighing)))
    same_as_in_full(monkeypatch, Weighed(blocks(Weighing)), train=False)
    assert left_out == [COUNT - 3] * 2


def test_attention_weights_that_are_shown(monkeypatch, left_out):
    class Shown(Weighed):
        uses = staticmethod(lambda weights: weights.detach().sigmoid().mean())

    same_as_in_full(monkeypatch, Shown(blocks(Weighing)))
    assert left_out == [COUNT - 3]


def test_attention_weights_in_the_loss(monkeypatch, left_out):
    class Learnt(Weighed):
        uses = staticmethod(lambda weights: weights.square().mean())

    same_as_in_full(monkeypatch, Learnt(blocks(Weighing)))
    assert left_out == []  # the second run follows no blocks


class Routed(Block):
    """A loop over four experts: how many tokens each gets depends on the activations."""

    def __init__(self, number):
        super().__init__(number)
        self.router = nn.Linear(WIDTH, 4)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, data):
        tokens = data.flatten(0, 1)
        choices = self.router(tokens).argmax(-1)
        result = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            (rows,) = torch.where(choices == number)
            result.index_add_(0, rows, expert(tokens[rows]))
        return super().forward(result.view_as(data))


def test_blocks_whose_routers_draw_their_choices(monkeypatch, left_out):
    """The sizes of the ops are random in every trace; the last block has its own."""
    model = Net(blocks(Routed))
    fast = trace(model, DATA, layers=False)
    assert left_out == [COUNT - 3]
    monkeypatch.setattr(step, "_listed", step._run)
    full = trace(model, DATA, layers=False)
    assert fast.forward_flops == full.forward_flops  # each token goes to one expert
    assert fast.warnings == full.warnings
    assert [(op.name, op.layer, op.phase) for op in fast.ops] == [(op.name, op.layer, op.phase) for op in full.ops]
    tokens = Counter()
    for op in fast.ops:
        if op.name == "addmm" and ".experts." in op.layer:
            tokens[op.layer.partition(".experts.")[0]] += op.dims["m"]
    assert dict(tokens) == {f"blocks.{number}": 4 * 80 for number in range(COUNT)}


def test_the_model_is_left_as_it_was():
    model = Net(blocks())
    before = [(path, list(module.__dict__.items())) for path, module in model.named_modules()]
    call, get = Block.__call__, nn.Module.__getattr__
    trace(model, DATA, layers=False)
    after = [(path, list(module.__dict__.items())) for path, module in model.named_modules()]
    for (path, old), (same, new) in zip(before, after, strict=True):
        assert path == same
        assert [name for name, _ in old] == [name for name, _ in new]
        assert all(a is b for (_, a), (_, b) in zip(old, new, strict=True))
    assert Block.__call__ is call
    assert nn.Module.__getattr__ is get
    assert "__call__" not in vars(Block)
    assert all(parameter.grad is None for parameter in model.parameters())
    model(DATA).sum().backward()


def test_the_model_is_left_as_it_was_after_an_error():
    class Failing(Net):
        def forward(self, data):
            super().forward(data)
            raise ValueError("no")

    model = Failing(blocks())
    call, get = Block.__call__, nn.Module.__getattr__
    with pytest.raises(Exception, match="no"):
        trace(model, DATA, layers=False)
    assert Block.__call__ is call
    assert nn.Module.__getattr__ is get
    assert [block.number for block in model.blocks] == list(range(COUNT))
