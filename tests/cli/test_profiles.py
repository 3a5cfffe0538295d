"""`joulecast profiles`: the profiles of this machine's store by name, without a broken file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from joulecast.estimator.cost.library import load_profile

from .conftest import Run

NAME = "amd-epyc-2-threads-20260101000000"


def test_a_calibration_has_a_name_and_a_broken_one_is_left_out_in_one_line(call: Run, tmp_path: Path) -> None:
    folder = tmp_path / "store" / "profiles"
    replace(load_profile("t4"), name=NAME, hardware="AMD EPYC, 2 threads").save(folder / f"{NAME}.json")
    (folder / "broken.json").write_text("{")
    done = call("joulecast", "profiles", NAME, "--json")
    assert done.returncode == 0
    (row,) = json.loads(done.stdout)
    assert (row["name"], row["hardware"], row["kind"]) == (NAME, "AMD EPYC, 2 threads", "measured here")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"warning: profile {folder / 'broken.json'} cannot be read")
    assert line.endswith("or delete the file")


def test_an_alias_shows_the_part_and_a_path_the_file(call: Run, tmp_path: Path) -> None:
    assert json.loads(call("joulecast", "profiles", "Tesla T4", "--json").stdout)[0]["name"] == "t4"
    path = replace(load_profile("t4"), name="mine").save(tmp_path / "mine.json")
    (row,) = json.loads(call("joulecast", "profiles", str(path), "--json").stdout)
    assert (row["name"], row["kind"]) == ("mine", "file")
