"""Batch size and length of the data that a training script has itself are the defaults; stated ones are stronger."""

from textwrap import dedent

import pytest

import joulecast as jc

SCRIPT = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
model = nn.Linear(4, 3)
data = TensorDataset(torch.zeros(100, 4), torch.zeros(100, dtype=torch.int64))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for inputs, targets in DataLoader(data, batch_size=20):
    loss = nn.functional.cross_entropy(model(inputs), targets)
    loss.backward()
    optimizer.step()
"""
OWN_BATCH, OWN_DATA = "batch size 20: the training's own", "an epoch has 100 samples, as the training's own data"


@pytest.fixture
def estimate(tmp_path):
    def answer(code=SCRIPT, **options):
        (tmp_path / "train.py").write_text(dedent(code))
        return jc.estimate(f"{tmp_path}/train.py", hardware="rtx-4090", **options)

    return answer


def notes(answer):
    return "\n".join([*answer.warnings, *answer.workload.warnings])


def test_the_scripts_own_batch_and_data(estimate):
    answer = estimate(epochs=4)
    assert answer.workload.batch_size == 20
    assert answer.schedule.steps == 4 * 5
    assert OWN_BATCH in notes(answer)
    assert OWN_DATA in notes(answer)
    assert "CIFAR-10" not in notes(answer)


def test_what_is_stated_is_stronger(estimate):
    answer = estimate(epochs=4, batch_size=10, samples=1_000)
    assert answer.workload.batch_size == 10
    assert answer.schedule.steps == 4 * 100
    assert OWN_BATCH not in notes(answer)
    assert OWN_DATA not in notes(answer)


def test_batches_without_a_loader_are_no_default(estimate):
    """A call on one state of an environment, for example, is not the batch that the training learns from."""
    code = SCRIPT.replace("DataLoader(data, batch_size=20)", "[(torch.zeros(7, 4), torch.zeros(7, dtype=torch.int64))]")
    answer = estimate(code, epochs=1)
    assert answer.workload.batch_size == 32
    assert "CIFAR-10" in notes(answer)


def test_an_evaluation_before_the_training_is_no_default(estimate):
    evaluation = "with torch.no_grad():\n    for inputs, _ in DataLoader(data, batch_size=50):\n        model(inputs)\n"
    answer = estimate(SCRIPT.replace("for inputs, targets", evaluation + "for inputs, targets"), epochs=1)
    assert answer.workload.batch_size == 32
    assert OWN_DATA not in notes(answer)


def test_a_part_of_the_data_is_an_epoch(estimate):
    sampler = "DataLoader(data, batch_size=20, sampler=torch.utils.data.SubsetRandomSampler(range(60)))"
    assert estimate(SCRIPT.replace("DataLoader(data, batch_size=20)", sampler), epochs=1).schedule.steps == 3
