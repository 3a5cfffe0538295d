"""Files that users name: regular files within the limit are read; anything else raises an OSError immediately."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from joulecast.estimator.base.errors import HardwareError, ProfileError
from joulecast.estimator.base.files import read_bytes, read_text, write_bytes, write_json
from joulecast.estimator.cost.hardware import load_hardware
from joulecast.estimator.cost.library import load_profile

posix = pytest.mark.skipif(sys.platform == "win32", reason="devices and pipes of POSIX")


def test_a_regular_file_is_read_without_its_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("\ufeffkey,näme\n".encode())
    assert read_text(path) == "key,näme\n"


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a directory"):
        read_bytes(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "a.json"
    write_json(path, {"a": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(path, b"half")
    assert read_text(path) == '{\n "a": 1\n}\n'
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]


def test_numbers_that_json_does_not_have_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_the_limit_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    with pytest.raises(OSError, match="is larger than"):
        read_bytes(path, 4)


def test_a_sparse_file_of_a_terabyte_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as stream:
        try:
            stream.truncate(2**40)
        except OSError:
            pytest.skip("the file system has no sparse files")
    with pytest.raises(ProfileError, match=r"huge\.json is larger than 64 MiB"):
        load_profile(path)


@posix
def test_devices_pipes_and_folders_are_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (Path("/dev/zero"), Path("/dev/null"), pipe):  # the pipe has no writer: opening it would block
        with pytest.raises(OSError, match="is not a regular file"):
            read_bytes(path)
        with pytest.raises(ProfileError, match="is not a regular file") as caught:
            load_profile(str(path))
        assert "\n" not in str(caught.value)
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path)


@posix
def test_a_hardware_table_must_be_a_regular_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOULECAST_HARDWARE", "/dev/zero")
    with pytest.raises(HardwareError, match="not a regular file"):
        load_hardware()


def test_a_path_with_a_null_character_is_one_line() -> None:
    with pytest.raises(ProfileError, match="null"):
        load_profile("/tmp/\0.json")
