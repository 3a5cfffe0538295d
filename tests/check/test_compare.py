"""Changes between two answers, on networks whose sizes are worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from joulecast import load_profile, trace
from joulecast.check.compare import Change, compare, signed_energies
from joulecast.estimator.answer.answer import Answer
from joulecast.estimator.answer.forecast import forecast
from joulecast.estimator.place.schedule import make_schedule
from joulecast.estimator.place.site import make_site


def answer(
    model: nn.Module, *, batch: int = 8, passes: int = 1, hardware: str = "t4", region: str = "FR", **length: Any
) -> Answer:
    work = trace(model, torch.zeros(batch, 3, 8, 8), accumulate=passes, layers=False)
    profile = load_profile(hardware)
    schedule = make_schedule(batch_size=batch, accumulation=passes, **(length or {"steps": 1000}))
    return Answer("m", work, profile, schedule, forecast(profile, work, schedule), make_site(region=region))


def network(hidden: int = 64, *, extra: bool = False) -> nn.Sequential:
    """Convolutions of 3 x 3 on 8 x 8 images, 32 and `hidden` channels wide; `extra` inserts another one."""
    between = [nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()] if extra else []
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        *between,
        nn.Conv2d(32, hidden, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def test_a_doubled_layer_is_named_with_its_sizes() -> None:
    base, head = answer(network(64)), answer(network(128))
    change = compare(base, head)
    first = change.layers[0]
    assert (first.path, first.what) == ("2", "doubled")
    assert first.parameters == (32 * 64 * 9 + 64, 32 * 128 * 9 + 128)
    assert first.macs_per_sample == (32 * 64 * 9 * 64, 32 * 128 * 9 * 64)
    # The layers' changes and the loss's add up to the whole, but for costs that all ops of a step share.
    loss = [part.energy_kwh * 1.58 for one in (base, head) for part in one.estimate.layers if part.name == "(loss)"]
    layers = sum(layer.energy_kwh for layer in change.layers)
    assert layers + loss[1] - loss[0] == pytest.approx(change.energy_added_kwh, rel=0.2)
    assert change.energy_added_kwh == pytest.approx(head.facility_energy_kwh.value - base.facility_energy_kwh.value)
    percent = 100 * (head.facility_energy_kwh.value / base.facility_energy_kwh.value - 1)
    assert str(change).startswith(f"{percent:+.2g} % energy: 2 doubled (+")
    assert not change.settings
    assert "0" not in [layer.path for layer in change.layers]


def test_the_other_way_round_it_is_halved() -> None:
    change = compare(answer(network(128)), answer(network(64)))
    assert change.layers[0].what == "halved"
    assert change.energy_added_kwh < 0
    assert "2 halved (-" in str(change)


def test_a_layer_put_into_a_sequence_is_new_and_those_after_it_only_moved() -> None:
    change = compare(answer(network()), answer(network(extra=True)))
    assert [layer.what for layer in change.layers] == ["is new (Conv2d)", "is new (ReLU)"]
    assert change.layers[0].path == "2"
    assert change.layers[0].parameters == (None, 32 * 32 * 9 + 32)
    back = compare(answer(network(extra=True)), answer(network()))
    assert {layer.what for layer in back.layers} == {"was removed"}
    assert back.energy_added_kwh == pytest.approx(-change.energy_added_kwh)


def test_a_layer_of_another_kind() -> None:
    head = network()
    head[1] = nn.GELU()
    (layer,) = compare(answer(network()), answer(head)).layers
    assert (layer.path, layer.what) == ("1", "is GELU, was ReLU")


class Functional(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x)).mean((1, 2, 3)).unsqueeze(1)


def test_what_a_module_computes_beside_its_layers_is_charged_to_it_and_is_no_cause() -> None:
    base, head = answer(Functional(64), batch=4096), answer(Functional(128), batch=4096)
    change = compare(base, head)
    assert {layer.path: layer.what for layer in change.layers} == {"conv": "doubled", "": "costs more"}
    assert [layer.path for layer in change.named] == ["conv"]
    assert sum(layer.energy_kwh for layer in change.layers) == pytest.approx(change.energy_added_kwh, rel=0.2)


def test_nothing_changed() -> None:
    change = compare(answer(network()), answer(network()))
    assert change == Change(change.energy_kwh, change.co2e_kg, (), ())
    assert str(change) == "unchanged"


def test_larger_images_are_told_before_the_layers() -> None:
    small, large = (trace(network(), torch.zeros(8, 3, size, size), layers=False) for size in (8, 16))
    base = answer(network())
    assert base.workload == small
    change = compare(base, replace(base, workload=large, estimate=forecast(base.profile, large, base.schedule)))
    assert str(change).endswith(" energy: input per sample 3.07 kB, was 768 B")
    assert change.layers[0].macs_per_sample[1] == 4 * change.layers[0].macs_per_sample[0]


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({"steps": 2000}, "+100 % energy: steps 2,000, was 1,000"),
        ({"steps": 500, "batch": 16}, "energy: batch size 16, was 8"),
        ({"steps": 500, "passes": 2}, "batch size 16, was 8"),
        ({"hardware": "a100-sxm4-80gb"}, "energy: hardware a100-sxm4-80gb, was t4"),
        ({"steps": 1000, "devices": 2}, "devices 2, was 1"),
    ],
)
def test_settings_are_told_and_no_layer_is_blamed(head: dict[str, Any], said: str) -> None:
    change = compare(answer(network()), answer(network(), **head))
    assert said in str(change)
    assert not change.layers


def test_a_cleaner_place_changes_co2e_alone() -> None:
    change = compare(answer(network(), region="PL"), answer(network(), region="FR"))
    assert change.energy_added_kwh == 0
    assert str(change).startswith("same energy, -")
    assert "g CO2e/kWh" in str(change)


def test_a_longer_run_and_a_larger_layer_are_told_apart() -> None:
    once = compare(answer(network(64)), answer(network(128)))
    both = compare(answer(network(64)), answer(network(128), steps=3000))
    # What the layer adds is counted at the head's length, so it is not charged with the longer run.
    assert both.layers[0].energy_kwh == pytest.approx(3 * once.layers[0].energy_kwh)
    assert both.settings == ("steps 3,000, was 1,000",)


def test_few_layers_are_named_and_the_rest_counted() -> None:
    def deep(width: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(3, width, 1), *(nn.Conv2d(width, width, 3, padding=1) for _ in range(6)), nn.Flatten()
        )

    change = compare(answer(deep(16)), answer(deep(32)))
    assert len(change.named) == 3
    assert f"; {len(change.layers) - 3} more layers" in str(change)
    assert "is 4 times as large" in str(change)


def test_signed_energies_share_a_unit() -> None:
    assert signed_energies([0.4, -0.002, 0.41]) == ["+400 Wh", "-2.00 Wh", "+410 Wh"]
