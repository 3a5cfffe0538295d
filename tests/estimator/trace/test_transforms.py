"""Models that use torch.func's gradients in their forward pass: counts by hand, and hooks as they were."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.func import functional_call, grad, jacrev, vmap

from joulecast.estimator.base.errors import ModelError
from joulecast.estimator.trace.trace import trace

NOTE = "what torch.func keeps for its gradients is not counted in the memory of the activations"
BATCH = 8


def mlp(wide: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(wide, hidden), nn.Tanh(), nn.Linear(hidden, out))


class Slope(nn.Module):
    """The derivative of a network with respect to its input, as in physics-informed networks."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(2, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return vmap(grad(lambda point: self.net(point).squeeze()))(x)  # type: ignore[no-any-return]


class Jacobian(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(4, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return vmap(jacrev(self.net))(x)  # type: ignore[no-any-return]


class InnerStep(nn.Module):
    """A step of gradient descent within the forward pass, as in meta-learning."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(16, 32, 16)

    def forward(self, x: Tensor) -> Tensor:
        weights = dict(self.net.named_parameters())
        found = grad(lambda own: (functional_call(self.net, own, (x,)) - x).square().mean())(weights)
        moved = {name: weight - 0.1 * found[name] for name, weight in weights.items()}
        return functional_call(self.net, moved, (x,))  # type: ignore[no-any-return]


# A network has one product for each of its two layers. The gradient of its input has as many; that of its weights two
# for each layer, one less because x needs none. A Jacobian has one gradient for each of the 3 outputs.
FORWARD = {
    Slope: BATCH * 2 * (2 * 32 + 32),
    Jacobian: BATCH * (1 + 3) * (4 * 8 + 8 * 3),
    InnerStep: BATCH * ((2 * 2 + 1) * 16 * 32 + 2 * 16 * 32),
}


@pytest.mark.parametrize(
    ("model", "width"), [(Slope, 2), (Jacobian, 4), (InnerStep, 16)], ids=["slope", "jacobian", "inner step"]
)
def test_gradients_within_the_forward_pass_are_counted(model: type[nn.Module], width: int) -> None:
    net = model()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    work = trace(net, torch.zeros(BATCH, width), layers=False)
    assert work.forward_flops == FORWARD[model]
    assert work.tracer == "meta"
    assert NOTE in work.warnings
    assert any(op.phase == "backward" and op.flops for op in work.ops)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_step_with_an_inner_step_has_all_products() -> None:
    work = trace(InnerStep(), torch.zeros(BATCH, 16), layers=False)
    step = sum(op.flops for op in work.ops)
    assert step == 73_728  # torch's FlopCounterMode on a real step
    assert trace(Slope(), torch.zeros(BATCH, 2), train=False, layers=False).forward_flops == FORWARD[Slope]


class KeepsOnCpu(Slope):
    """Has hooks of its own around torch.func, which no real run survives."""

    def forward(self, x: Tensor) -> Tensor:
        with save_on_cpu():
            return super().forward(x)


def test_hooks_of_the_models_own_are_refused_as_torch_does() -> None:
    with pytest.raises(ModelError, match="don't yet support saved tensor hooks"):
        trace(KeepsOnCpu(), torch.zeros(BATCH, 2), layers=False)


def test_what_torch_has_is_put_back() -> None:
    refuses = torch.autograd.graph.disable_saved_tensors_hooks
    trace(Slope(), torch.zeros(BATCH, 2), layers=False)
    assert torch.autograd.graph.disable_saved_tensors_hooks is refuses
    assert torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    with save_on_cpu():  # raises where hooks are still disabled
        pass


def test_a_model_without_them_has_no_note() -> None:
    assert NOTE not in trace(mlp(4, 8, 3), torch.zeros(BATCH, 4), layers=False).warnings
