"""Scripts that train several models: one iteration of their loop is a step. Multiply-adds are worked out by hand."""

from textwrap import dedent

import pytest

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.model.read_model import TraceOptions, read_model

HEAD = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
loader = DataLoader(TensorDataset(torch.zeros(100, 4)), batch_size=10)
"""
NETS = """
G = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
D = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid())
opt_d, opt_g = torch.optim.Adam(D.parameters()), torch.optim.Adam(G.parameters())
criterion = nn.BCELoss()
"""
# Multiply-adds of a sample: forward, and backward with and without the gradient of the input.
G_FORWARD, D_FORWARD = 8 * 16 + 16 * 4, 4 * 32 + 32 * 1
G_WEIGHTS, D_WEIGHTS = G_FORWARD + 16 * 4, D_FORWARD + 32 * 1  # the weights', and through the second layer
D_ALL = 2 * D_FORWARD


def read(tmp_path, code, spec="train.py", **options):
    (tmp_path / "train.py").write_text(dedent(code))
    return read_model(f"{tmp_path}/{spec}", TraceOptions(**{"own_batch": True, "optimizer": "adam", **options}))


GAN = (
    HEAD
    + NETS
    + """
for epoch in range(3):
    for i, (real,) in enumerate(loader):
        size = real.size(0)
        opt_d.zero_grad()
        criterion(D(real), torch.ones(size, 1)).backward()
        fake = G(torch.randn(size, 8))
        criterion(D(fake.detach()), torch.zeros(size, 1)).backward()
        opt_d.step()
        opt_g.zero_grad()
        loss = criterion(D(fake), torch.ones(size, 1))
        loss.backward()
        opt_g.step()
        if i % 100 == 0:
            G(torch.randn(64, 8))
"""
)


@pytest.mark.parametrize(("options", "batch"), [({}, 10), ({"own_batch": False, "batch_size": 6}, 6)])
def test_a_gan(tmp_path, options, batch):
    work = read(tmp_path, GAN, **options)
    forward = G_FORWARD + 3 * D_FORWARD
    # D on real and on fake data; then through all of D, whose weights get gradients too, into G
    backward = 2 * D_WEIGHTS + D_ALL + G_WEIGHTS
    assert work.batch_size == batch
    assert work.forward_flops == batch * forward
    assert work.flops == batch * (forward + backward)
    assert work.parameters == work.trainable_parameters == 8 * 16 + 16 + 16 * 4 + 4 + 4 * 32 + 32 + 32 + 1
    assert work.samples_per_epoch == 100
    assert work.optimizer_state_bytes == 2 * 4 * work.parameters
    own = "batch size 10: the script's own; `batch_size` sets another"
    assert (own in work.warnings) == (not options)
    assert "one step is an iteration of the loop in line 13, with all 2 optimizers" in work.warnings


def test_the_second_of_counted_iterations_is_read(tmp_path):
    """The first one also saves samples, evaluates or logs in many scripts."""
    assert "G(torch.randn(64, 8))" in GAN
    assert read(tmp_path, GAN).forward_flops < read(tmp_path, GAN.replace("i % 100 == 0", "True")).forward_flops


def test_what_follows_the_last_update_does_not_count(tmp_path):
    """The samples that the first iteration saves are no training; the second does not save any."""
    code = GAN.replace("i % 100 == 0", "True").replace("G(torch.randn(64, 8))", "raise OSError('no space')")
    work = read(tmp_path, code)
    assert work.forward_flops == 10 * (G_FORWARD + 3 * D_FORWARD)
    assert any("what follows the last update is left out (OSError: no space)" in note for note in work.warnings)


def test_a_generator_that_is_updated_in_some_steps(tmp_path):
    code = (
        HEAD
        + NETS
        + """
for i, (real,) in enumerate(loader):
    opt_d.zero_grad()
    fake = G(torch.randn(real.shape[0], 8)).detach()
    (D(fake).mean() - D(real).mean()).backward()
    opt_d.step()
    for p in D.parameters():
        p.data.clamp_(-0.01, 0.01)
    if i % 5 == 0:
        opt_g.zero_grad()
        (-D(G(torch.randn(real.shape[0], 8))).mean()).backward()
        opt_g.step()
"""
    )
    work = read(tmp_path, code)
    assert work.forward_flops == 10 * (2 * G_FORWARD + 3 * D_FORWARD)
    assert any("not every step updates all models" in note for note in work.warnings)


def test_a_loop_within_the_step_and_data_that_the_code_draws(tmp_path):
    code = (
        HEAD
        + NETS
        + """
data = iter(lambda: torch.zeros(16, 4), None)
for step in range(10000):
    for _ in range(5):
        real = next(data)
        opt_d.zero_grad()
        (D(G(torch.randn(16, 8)).detach()).mean() - D(real).mean()).backward()
        opt_d.step()
    opt_g.zero_grad()
    (-D(G(torch.randn(16, 8))).mean()).backward()
    opt_g.step()
"""
    )
    work = read(tmp_path, code)
    assert work.batch_size == 16
    assert work.forward_flops == 16 * (6 * G_FORWARD + 11 * D_FORWARD)
    assert work.flops - work.forward_flops == 16 * (10 * D_WEIGHTS + D_ALL + G_WEIGHTS)
    with pytest.raises(
        JoulecastError, match="`batch_size` 8 cannot be set: train makes its own batches, of 16 samples"
    ):
        read(tmp_path, code, own_batch=False, batch_size=8)


CYCLE = """
import itertools, torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

class Pairs(Dataset):
    def __len__(self): return 12
    def __getitem__(self, i): return {"A": torch.zeros(8), "B": torch.zeros(8), "path": "x"}

class Cycle:
    def __init__(self):
        self.net_a, self.net_b, self.critic = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 1)
        self.of_nets = torch.optim.Adam(itertools.chain(self.net_a.parameters(), self.net_b.parameters()))
        self.of_critic = torch.optim.Adam(self.critic.parameters())

    def learn(self, batch):
        a = batch["A"]
        self.critic.requires_grad_(False)
        self.of_nets.zero_grad()
        fake = self.net_a(a)
        loss = self.critic(fake).mean() + (self.net_b(fake) - a).abs().mean()
        loss.backward()
        self.of_nets.step()
        self.critic.requires_grad_(True)
        self.of_critic.zero_grad()
        self.critic(fake.detach()).mean().backward()
        self.of_critic.step()

def main():
    total = 0
    cycle = Cycle()
    for epoch in range(2):
        for batch in DataLoader(Pairs(), batch_size=4):
            total += 4
            cycle.learn(batch)
            if total % 4 == 0:
                print("loss", total)

if __name__ == "__main__":
    main()
"""


def test_models_in_an_object_that_trains_them_in_a_method(tmp_path):
    work = read(tmp_path, CYCLE, "train.py:__main__")
    assert (work.batch_size, work.samples_per_epoch) == (4, 12)
    assert work.forward_flops == 4 * (64 + 64 + 8 + 8)
    # net_a: weights; net_b: weights and input; the critic: its input, then its weights
    assert work.flops - work.forward_flops == 4 * (64 + 2 * 64 + 8 + 8)


TEACHER = (
    HEAD
    + """
student = nn.Linear(4, 5)
teacher = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 5))
best = nn.Linear(4, 5)
optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
for (data,) in loader:
    scores = student(data)
    with torch.no_grad():
        wanted = teacher(data)
    loss = (scores - wanted).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
)


def test_a_teacher_that_is_called_after_its_student(tmp_path):
    work = read(tmp_path, TEACHER)
    assert work.forward_flops == 10 * (4 * 5 + 4 * 64 + 64 * 5)
    assert work.flops - work.forward_flops == 10 * 4 * 5
    assert work.parameters == 4 * 5 + 5 + 4 * 64 + 64 + 64 * 5 + 5  # without the copy that no step calls


def test_other_models_that_the_step_does_not_call(tmp_path):
    code = TEACHER.replace("wanted = teacher(data)", "wanted = torch.zeros(10, 5)")
    work = read(tmp_path, code)
    assert work.forward_flops == 10 * 4 * 5
    assert work.parameters == 25
    assert work.batch_size == 10
    assert not any("alone is costed" in note for note in work.warnings)


def test_a_step_that_cannot_be_run_as_a_whole_has_a_note(tmp_path):
    code = TEACHER.replace("wanted = teacher(data)", "wanted = teacher(data); raise OSError('no data')")
    work = read(tmp_path, code)
    assert work.forward_flops == 10 * 4 * 5
    assert any("student alone is costed" in note and "no data" in note for note in work.warnings)


def test_an_actor_that_acts_on_one_sample(tmp_path):
    """The batch is that of the networks which learn; the actor's own call counts too."""
    code = """
import torch
from torch import nn
actor, critic = nn.Linear(3, 5), nn.Linear(8, 7)
of_actor, of_critic = torch.optim.Adam(actor.parameters()), torch.optim.Adam(critic.parameters())

def update(state):
    of_critic.zero_grad()
    critic(torch.cat([state, torch.zeros(32, 5)], 1)).square().mean().backward()
    of_critic.step()
    of_actor.zero_grad()
    critic(torch.cat([state, actor(state)], 1)).mean().backward()
    of_actor.step()

for step in range(10000):
    with torch.no_grad():
        action = actor(torch.zeros(1, 3))[0].tolist()
    update(torch.tensor([[0.0, 1.0, 2.0]] * 32))
"""
    work = read(tmp_path, code)
    assert work.batch_size == 32
    assert work.forward_flops == 15 + 32 * (56 + 15 + 56)
    assert work.flops - work.forward_flops == 32 * (56 + 2 * 56 + 15)


def test_models_that_no_one_loop_trains(tmp_path):
    code = (
        HEAD
        + NETS
        + """
for (real,) in loader:
    criterion(D(real), torch.ones(10, 1)).backward()
    opt_d.step()
for (real,) in loader:
    D(G(torch.randn(10, 8))).sum().backward()
    opt_g.step()
"""
    )
    with pytest.raises(JoulecastError, match=r"no loop is one step of all of them .*calls 1 of 2 optimizers"):
        read(tmp_path, code)
