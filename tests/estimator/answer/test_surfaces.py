"""The command line, a check's configuration and Python have the same options: the fields of a request."""

from __future__ import annotations

import inspect
from dataclasses import fields

import joulecast as jc
from joulecast.check import config
from joulecast.cli.estimate import estimate as command
from joulecast.cli.estimate import read_request
from joulecast.cli.fields import with_options

FIELDS = {field.name for field in fields(jc.Request)}


def test_python_has_every_field() -> None:
    assert set(inspect.signature(jc.estimate).parameters) == FIELDS


def test_a_configuration_has_every_field_that_a_file_can_hold() -> None:
    keys = {config._FIELDS.get(key, key) for key in config._MODEL} - {"name", "inference"}
    # A verdict must not depend on the hour, and has one place; a check needs no layer table.
    assert keys == FIELDS - {"live", "regions", "layers", "train"}


def test_the_command_line_has_every_field() -> None:
    options = {option.lstrip("-").replace("-", "_") for parameter in command.params for option in parameter.opts}
    spelt = {"inputs": "input", "model_args": "model_arg", "time_limit_s": "time_limit", "train": "inference"}
    assert {spelt.get(name, name) for name in FIELDS} <= options


def test_the_command_line_hands_every_option_on() -> None:
    given = {
        "--input": "3,8,8",
        "--model-arg": "width=3",
        "--dataset": "cifar10",
        "--sequence-length": "9",
        "--batch-size": "7",
        "--optimizer": "adam",
        "--precision": "bf16",
        "--accumulate": "2",
        "--lora": "r=2",
        "--freeze": "body",
        "--epochs": "3",
        "--samples": "21",
        "--val-samples": "5",
        "--hardware": "t4",
        "--region": "FR",
        "--regions": "SE",
        "--pue": "1.2",
        "--price": "0.5",
        "--currency": "EUR",
        "--budget": "2kWh",
        "--budget-at": "expected",
        "--time-limit": "9",
    }
    arguments = [
        "--model",
        "net.py",
        "--inference",
        "--clip-gradients",
        "--ema",
        "--layers",
        "--live",
        *(part for pair in given.items() for part in pair),
    ]
    request = read_request("net.py", command.make_context("estimate", arguments).params)
    default = jc.Request()
    same = {name for name in FIELDS if getattr(request, name) == getattr(default, name)}
    left_out = {"loss", "steps", "tokens", "carbon_intensity", "devices"}
    cluster = {"cluster", "parallel", "zero", "activation_checkpointing", "global_batch", "parallel_config"}
    machines = {"input_bound", "overhead", "restart_hours", "idle_hosts", "storage_w"}
    assert same == left_out | cluster | machines | {"software", "device_hour", "embodied"}


def test_messages_name_options_and_leave_other_words() -> None:
    said = with_options("`batch_size` 0 and `inputs`, not `width`: run `measure`", command)
    assert said == "--batch-size 0 and --input, not `width`: run `measure`"
