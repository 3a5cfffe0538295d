"""The configuration: where it is found, what it contains, and errors that name the place of each mistake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from joulecast.check.config import Config, ConfigError, find_config, read_config

from ..estimator.synthetic import network

WORK = replace(network(depth=2, width=8), tokens_per_sample=10)
MODEL = 'models = [{ model = "net.py", hardware = "t4", steps = 1 }]\n'


def written(folder: Path, text: str, name: str = "joulecast.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def read(folder: Path, text: str) -> Config:
    return read_config(written(folder, text))


def test_it_is_found_upwards_and_a_file_of_its_own_comes_first(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    shared = written(tmp_path, "[tool.joulecast]\n" + MODEL, "pyproject.toml")
    written(tmp_path / "a", "[tool.other]\n", "pyproject.toml")  # has no word for joulecast
    assert find_config(below) == shared
    own = written(tmp_path, MODEL)
    assert find_config(below) == own
    assert find_config(tmp_path) == own


def test_both_files_say_the_same(tmp_path: Path) -> None:
    own = read(tmp_path, MODEL)
    shared = read_config(written(tmp_path, "[tool.joulecast]\n" + MODEL, "pyproject.toml"))
    assert own.entries == shared.entries
    assert own.entries[0].name == own.entries[0].model == "net.py"


def test_a_model_has_the_defaults_and_its_own_options(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        hardware = "t4"
        epochs = 3
        region = "FR"
        batch_size = 64
        budget = "1 kWh"
        [[models]]
        model = "a.py"
        dataset = "cifar10"
        [[models]]
        name = "other"
        model = "a.py:Other"
        model_arg = { width = 2, name = "a b", layers = [1, 2] }
        input = ["3,8,8", "ids:int64:4"]
        tokens = 1e6
        carbon_intensity = 10
        inference = true
        budget = ["2 kWh", "3 gCO2e"]
        """,
    )
    first, second = (entry.request for entry in config.entries)
    assert first.schedule().epochs == 3
    assert first.trace_options.batch_size == 64
    assert [limit.text for limit in first.limits] == ["1 kWh"]
    assert first.site.region is not None
    # Its own length and place stand instead of the defaults' epochs and region.
    assert second.schedule(WORK).steps == -(-1_000_000 // (64 * 10))
    assert second.site.carbon_g_per_kwh == 10
    assert second.site.region is None
    assert not second.trace_options.train
    assert [limit.text for limit in second.limits] == ["2 kWh", "3 gCO2e"]
    assert [spec.shape for spec in second.trace_options.specs] == [(3, 8, 8), (4,)]
    from joulecast.estimator.model.builders import parse_args

    assert parse_args(second.trace_options.args) == {"width": 2, "name": "a b", "layers": [1, 2]}
    assert config.named(["other"]) == config.entries[1:]
    assert config.named([]) == config.entries


def test_a_profile_is_found_beside_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from joulecast import load_profile

    load_profile("t4").save(tmp_path / "profiles" / "ours.json")
    monkeypatch.chdir("/")
    config = read(tmp_path, MODEL.replace('"t4"', '"profiles/ours.json"'))
    assert config.entries[0].profile == load_profile("t4")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('hardwear = "t4"\n' + MODEL, "joulecast.toml: unknown key 'hardwear'; did you mean hardware"),
        ("[tool.joulecast]\n" + MODEL, "unknown key 'tool'; known are models"),
        (
            '[[models]]\nname = "x"\nmodel = "n.py"\nbugdet = "1 kWh"\n',
            "joulecast.toml, [[models]] 1 (x): unknown key 'bugdet'; did you mean budget",
        ),
        ('[[models]]\nname = "x"\n', "[[models]] 1 (x) has no model"),
        ("", "has no models; give at least one [[models]]"),
        ("models = []\n", "has no models"),
        ('models = "net.py"\n', "has no models"),
        ("epochs = true\n" + MODEL, "epochs is True; give a number"),
        ('epochs = "many"\n' + MODEL, "epochs is 'many'; give a number"),
        ("budget = []\n" + MODEL, "budget is []; give a text or a list of texts"),
        ("budget = [1]\n" + MODEL, "budget is [1]; give a text or a list of texts"),
        ('region = ""\n' + MODEL, "region is ''; give a text"),
        ("devices = 1.5\n" + MODEL, "devices is 1.5; give a whole number"),
        ('inference = "yes"\n' + MODEL, "inference is 'yes'; give true or false"),
        ('model_arg = "width=3"\n' + MODEL, "model_arg is 'width=3'; give a table"),
        ('budget = "0 kWh"\n' + MODEL, "budget '0 kWh' cannot be used"),
        ('budget = "2 parsecs"\n' + MODEL, "unknown unit 'parsecs'"),
        ('optimizer = "xyz"\n' + MODEL, "optimizer 'xyz' is not known; choose one of sgd"),
        ('region = "Atlantis"\n' + MODEL, "unknown region 'Atlantis'"),
        ("pue = 0.5\n" + MODEL, "PUE 0.5"),
        ("batch_size = 0\n" + MODEL, "batch_size 0 cannot be used"),
        (
            '[[models]]\nmodel = "n.py"\nhardware = "t4"\n',
            "run length missing: give epochs, steps, samples or tokens",
        ),
        ('[[models]]\nmodel = "n.py"\nsteps = 1\nhardware = "rtx-3091"\n', "rtx-3090"),
        ('[[models]]\nmodel = "n.py"\nsteps = 1\nepochs = 2\nhardware = "t4"\n', "contradict"),
        (
            'hardware = "t4"\nsteps = 1\nmodels = [{ model = "a" }, { name = "a", model = "b" }]\n',
            "models 1 and 2 are both named 'a'",
        ),
        ("models = [", "is not valid TOML"),
    ],
)
def test_mistakes_are_one_line_with_their_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert words in str(caught.value)
    assert "joulecast.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_configuration_and_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no joulecast.toml and no pyproject.toml with \[tool.joulecast\]"):
        find_config(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"has no model 'net\.pi'; did you mean net\.py"):
        read(tmp_path, MODEL).named(["net.pi"])


def test_a_parallel_configuration_is_read_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text('{"train_micro_batch_size_per_gpu": 4, "zero_optimization": {"stage": 2}}')
    model = '{ model = "net.py", cluster = "dgx-a100", steps = 1, parallel_config = "ds.json" }'
    (entry,) = read(tmp_path, f"models = [{model}]\n").entries
    assert (entry.request.batch_size, entry.request.zero, entry.request.parallel_config) == (4, 2, None)
    assert entry.notes == ()
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}}')
    (entry,) = read(tmp_path, f"models = [{model}]\n").entries
    assert [note.partition(" of ")[0] for note in entry.notes] == ["offload_param"]
    with pytest.raises(ConfigError, match=r"none.json cannot be read"):
        read(tmp_path, f"models = [{model.replace('ds.json', 'none.json')}]\n")
