"""CIFAR-10: only the original layout is read, and a pickle can never choose what runs."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulecast.measure.training.cifar10 import (
    TRAIN_BATCHES,
    DataError,
    download_cifar10,
    load_cifar10,
    open_images,
    synthetic_images,
)
from joulecast.measure.training.recipe import Order, Recipe, augmented, drawn_test_images

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "cifar10" / "make_cifar10.py"
COUNT = 4


def batch(number: int) -> dict[bytes, Any]:
    pixels = np.random.default_rng(number).integers(0, 256, (COUNT, 3072), np.uint8)
    return {b"data": pixels, b"labels": [number, 1, 2, 9], b"filenames": [b"a.png"] * COUNT}


def write_layout(folder: Path) -> Path:
    inner = folder / "cifar-10-batches-py"
    inner.mkdir(parents=True)
    for number, name in enumerate((*TRAIN_BATCHES, "test_batch")):
        (inner / name).write_bytes(pickle.dumps(batch(number), protocol=2))
    meta = {b"label_names": [b"airplane"], b"num_cases_per_batch": COUNT}
    (inner / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    return inner


def test_every_way_to_the_same_images(tmp_path: Path) -> None:
    inner = write_layout(tmp_path)
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(inner, arcname=inner.name)
    expected = np.concatenate([batch(number)[b"data"] for number in range(5)])
    for path in (tmp_path, inner, tmp_path / "cifar-10-python.tar.gz"):
        images = open_images(path)
        assert np.array_equal(images.train_images.reshape(20, 3072), expected)
        assert images.train_images.shape == (20, 3, 32, 32)
        assert images.train_labels.tolist() == [label for n in range(5) for label in (n, 1, 2, 9)]
        assert np.array_equal(images.test_images.reshape(4, 3072), batch(5)[b"data"])
        assert not images.synthetic
        assert str(path) in images.source


def test_the_official_batches_were_pickled_by_python_2(tmp_path: Path) -> None:
    """The opcodes that Python 2's cPickle and numpy wrote, for one image with label 7."""
    pixels = np.arange(3072, dtype=np.uint8)
    content = (
        b"\x80\x02}q\x00(U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03"
        b"K\x00\x85U\x01b\x87Rq\x04(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nq\x05U\x02u1K\x00K\x01\x87Rq\x06"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00"
        + pixels.tobytes()
        + b"tbU\x06labelsq\x07]q\x08K\x07au."
    )
    inner = write_layout(tmp_path)
    for name in (*TRAIN_BATCHES, "test_batch"):
        (inner / name).write_bytes(content)
    (inner / "batches.meta").write_bytes(b"\x80\x02}U\x13num_cases_per_batchK\x01s.")
    images = load_cifar10(inner)
    assert images.test_labels.tolist() == [7]
    assert np.array_equal(images.test_images.ravel(), pixels)
    assert images.test_images[0, 1, 0, 0] == pixels[1024], "green comes after all of red"


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_wants_to_run_something_is_refused(tmp_path: Path) -> None:
    inner = write_layout(tmp_path)
    harm = tmp_path / "harm"
    (inner / "data_batch_3").write_bytes(pickle.dumps({b"data": Hostile(harm)}))
    with pytest.raises(DataError, match=r"data_batch_3 names posix\.mkdir.*was not read") as caught:
        load_cifar10(tmp_path)
    assert "\n" not in str(caught.value)
    assert not harm.exists()


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 1, exclude_max=True), data=st.data())
def test_a_batch_cut_or_damaged_anywhere_is_one_line(
    tmp_path_factory: pytest.TempPathFactory, cut: float, data: st.DataObject
) -> None:
    inner = write_layout(tmp_path_factory.mktemp("cut"))
    path = inner / "data_batch_2"
    content = bytearray(path.read_bytes())
    head = data.draw(st.integers(0, 200))
    content[head] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content[: int(cut * len(content))]))
    with pytest.raises(DataError, match="data_batch_2") as caught:
        load_cifar10(inner)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"labels": [0, 1, 2]}, "4 images and 3 labels, expected 4"),
        ({b"labels": [0, 1, 2, 10]}, "labels other than 0 to 9"),
        ({b"data": np.zeros((4, 3072))}, "no uint8 array of 3072 columns"),
        ({b"data": np.zeros((4, 3071), np.uint8)}, "no uint8 array of 3072 columns"),
        ({b"data": np.asfortranarray(np.zeros((4, 3072), np.uint8))}, "no uint8 array of 3072 columns"),
        ({b"data": None}, "lacks data or labels"),
    ],
)
def test_wrong_contents_are_named(tmp_path: Path, change: dict[bytes, Any], message: str) -> None:
    inner = write_layout(tmp_path)
    (inner / "data_batch_1").write_bytes(pickle.dumps(batch(0) | change, protocol=2))
    with pytest.raises(DataError, match=message):
        load_cifar10(inner)


def test_wrong_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder or archive; give .* as `data`"):
        load_cifar10(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"batches\.meta is missing"):
        load_cifar10(tmp_path)
    inner = write_layout(tmp_path)
    (inner / "test_batch").unlink()
    with pytest.raises(DataError, match="test_batch is missing"):
        load_cifar10(tmp_path)
    broken = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(broken, "w:gz") as archive:
        archive.add(inner, arcname=inner.name)
    broken.write_bytes(broken.read_bytes()[:5000])
    with pytest.raises(DataError, match="not a readable archive"):
        load_cifar10(broken)
    with pytest.raises(DataError, match="contradict"):
        open_images(tmp_path, synthetic=10)


def test_a_folder_that_may_not_be_looked_into_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of Python before 3.14 is simulated, since root can look into every folder."""

    def refused(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", refused)
    with pytest.raises(DataError, match=r"images: cannot be read \(Permission denied\); give .* as `data`"):
        load_cifar10(tmp_path / "images")


def test_a_download_that_is_not_the_official_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pooch")
    served = tmp_path / "served.tar.gz"
    with tarfile.open(served, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("x"), io.BytesIO())
    monkeypatch.setattr("joulecast.measure.training.cifar10.URL", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    with pytest.raises(DataError, match=r"could not be downloaded from http://127\.0\.0\.1:9/.*`data`"):
        download_cifar10(tmp_path / "cache")
    import functools
    import http.server
    import threading

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/served.tar.gz"
        monkeypatch.setattr("joulecast.measure.training.cifar10.URL", url)
        with pytest.raises(DataError, match=r"(?i)could not be downloaded.*(md5|hash)"):
            download_cifar10(tmp_path / "cache")
        server.shutdown()
    assert not list((tmp_path / "cache").glob("*.gz"))


@pytest.mark.skipif(not SHARED.is_file(), reason="../shared/cifar10 is not beside this checkout")
def test_the_real_images(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    import subprocess
    import sys

    subprocess.run([sys.executable, str(SHARED), str(tmp_path)], check=True)
    images = load_cifar10(tmp_path)
    assert images.train_images.shape == (50_000, 3, 32, 32)
    assert np.bincount(images.train_labels).tolist() == [5000] * 10
    assert np.bincount(images.test_labels).tolist() == [1000] * 10
    assert np.allclose(images.train_images.mean((0, 2, 3)) / 255, (0.4914, 0.4822, 0.4465), atol=2e-3)
    assert np.allclose(images.train_images.std((0, 2, 3)) / 255, (0.2470, 0.2435, 0.2616), atol=3e-3)


def test_synthetic_images_say_so() -> None:
    images = synthetic_images(30, 6, seed=3)
    assert images.synthetic
    assert "synthetic" in images.source
    assert images.train_images.shape == (30, 3, 32, 32)
    assert np.array_equal(images.train_images, synthetic_images(30, 6, seed=3).train_images)


# -- order and crops -----------------------------------------------------------------------------


@given(samples=st.integers(1, 500), batch_size=st.integers(1, 70), epoch=st.integers(0, 3))
def test_an_epoch_shows_every_image_once(samples: int, batch_size: int, epoch: int) -> None:
    order = Order(samples, batch_size, seed=1)
    shuffled = order.epoch_order(epoch)
    first = epoch * order.steps_per_epoch
    rows = [order.rows(shuffled, first + step) for step in range(order.steps_per_epoch)]
    assert sorted(np.concatenate(rows).tolist()) == list(range(samples))
    assert all(len(part) == batch_size for part in rows[:-1])


def test_crops_are_shifts_and_mirror_images_of_the_original() -> None:
    images = np.random.default_rng(0).integers(1, 256, (40, 3, 32, 32), np.uint8)
    changed = augmented(images, seed=5, step=9)
    mirrored = 0
    for original, crop in zip(images, changed, strict=True):
        padded = np.pad(original, [(0, 0), (4, 4), (4, 4)])
        crops = {(top, left): padded[:, top : top + 32, left : left + 32] for top in range(9) for left in range(9)}
        straight = any(np.array_equal(crop, one) for one in crops.values())
        mirror = any(np.array_equal(crop[:, :, ::-1], one) for one in crops.values())
        assert straight != mirror
        mirrored += mirror
    assert 5 < mirrored < 35
    assert np.array_equal(changed, augmented(images, seed=5, step=9))
    assert not np.array_equal(changed, augmented(images, seed=5, step=10))


def test_the_drawn_test_images_keep_their_labels() -> None:
    images = synthetic_images(10, 50)
    pixels, labels = drawn_test_images(images, 20, seed=0)
    pairs = {(one.tobytes(), int(label)) for one, label in zip(pixels, labels, strict=True)}
    everything = {
        (one.tobytes(), int(label)) for one, label in zip(images.test_images, images.test_labels, strict=True)
    }
    assert len(pairs) == 20
    assert pairs <= everything
    assert len(drawn_test_images(images, 99, seed=0)[1]) == 50


def test_the_learning_rate_warms_up_and_stays() -> None:
    recipe = Recipe("sgd", 0.1, warmup_steps=4)
    assert [recipe.learning_rate_at(step) for step in range(6)] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
