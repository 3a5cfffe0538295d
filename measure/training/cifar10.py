"""CIFAR-10 in its original layout, read without executing code from the pickles.

Data: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
https://www.cs.toronto.edu/~kriz/cifar.html (layout and digest of the Python version).
"""

from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...estimator.base.errors import JoulecastError

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"
FOLDER = "cifar-10-batches-py"
TRAIN_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_BATCH = "test_batch"
CLASSES = 10
PIXELS = (3, 32, 32)
_ROW_BYTES = 3 * 32 * 32
_FIX = "give the folder cifar-10-batches-py or cifar-10-python.tar.gz as `data`"

ImageArray = NDArray[np.uint8]
LabelArray = NDArray[np.int64]


class DataError(JoulecastError):
    """Training data that is missing, incomplete or in another format."""


@dataclass(frozen=True, slots=True)
class Images:
    """A training and a test set: images uint8 (count, 3, 32, 32) in RGB, labels int64 (count,).

    `source` says where they are from. `synthetic` images are random noise, which is enough to measure time and energy.
    """

    train_images: ImageArray
    train_labels: LabelArray
    test_images: ImageArray
    test_labels: LabelArray
    source: str
    synthetic: bool = False

    def head(self, train: int | None, test: int | None = None) -> Images:
        """The first images of each set; None keeps all."""
        return Images(
            self.train_images[:train],
            self.train_labels[:train],
            self.test_images[:test],
            self.test_labels[:test],
            self.source,
            self.synthetic,
        )


def open_images(data: Path | None = None, *, synthetic: int | None = None, seed: int = 0) -> Images:
    """`synthetic` random images, the ones in `data`, or by default the downloaded ones.

    Raises DataError, in one line, for data that cannot be used.
    """
    if synthetic is not None and data is not None:
        raise DataError(f"`data` {data} and `synthetic` contradict: give one of them")
    if synthetic is not None:
        return synthetic_images(synthetic, max(1, synthetic // 5), seed=seed)
    return load_cifar10(download_cifar10() if data is None else data)


def synthetic_images(train: int, test: int, *, seed: int = 0) -> Images:
    """Random pixels and labels in CIFAR-10's shape."""
    if train < 1 or test < 1:
        raise DataError(f"`synthetic` is {train}, which leaves no images to train on; give 1 or more")
    random = np.random.default_rng(seed)

    def draw(count: int) -> tuple[ImageArray, LabelArray]:
        return random.integers(0, 256, (count, *PIXELS), np.uint8), random.integers(0, CLASSES, count)

    return Images(*draw(train), *draw(test), source=f"synthetic: {train} random images", synthetic=True)


def download_cifar10(folder: Path | None = None) -> Path:
    """The official archive, downloaded once by pooch and verified by its MD5 digest."""
    try:
        import pooch
    except ImportError as error:
        raise DataError(f"downloading CIFAR-10 needs pooch: pip install 'joulecast[data]', or {_FIX}") from error
    target = pooch.os_cache("joulecast") if folder is None else folder
    name = URL.rpartition("/")[2]
    try:
        return Path(pooch.retrieve(URL, known_hash=f"md5:{MD5}", fname=name, path=target))
    except (OSError, ValueError) as error:  # ValueError: the digest; requests' errors are OSErrors
        reason = " ".join(str(error).split())
        raise DataError(f"CIFAR-10 could not be downloaded from {URL} ({reason}); {_FIX}") from error


def load_cifar10(path: Path) -> Images:
    """CIFAR-10 from its folder `cifar-10-batches-py`, the folder around it, or the official archive.

    Raises DataError if a batch is missing, cut short or in another format.
    """
    read = _reader(path)
    per_batch = _number(_batch(read, path, "batches.meta"), b"num_cases_per_batch", path)
    parts = [_images(_batch(read, path, name), path, name, per_batch) for name in TRAIN_BATCHES]
    test_images, test_labels = _images(_batch(read, path, TEST_BATCH), path, TEST_BATCH, per_batch)
    return Images(
        np.concatenate([images for images, _ in parts]),
        np.concatenate([labels for _, labels in parts]),
        test_images,
        test_labels,
        source=f"CIFAR-10 from {path}",
    )


def _reader(path: Path) -> Callable[[str], bytes]:
    """A function that reads a batch by its name, from a folder or from the archive."""
    try:
        if path.is_dir():
            inner = path / FOLDER
            folder = inner if inner.is_dir() else path
            return lambda name: (folder / name).read_bytes()
        if not path.is_file():
            raise DataError(f"{path}: no such folder or archive; {_FIX}")
    except PermissionError as error:  # of a folder above, before Python 3.14
        raise DataError(f"{path}: cannot be read ({error.strerror}); {_FIX}") from error
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:  # one pass, because going back unpacks again
            for member in archive:
                folder_name, _, name = member.name.rpartition("/")
                if folder_name == FOLDER and member.isfile() and (file := archive.extractfile(member)):
                    contents[name] = file.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        reason = str(error).partition(": -")[0]  # tarfile lists what each format says
        raise DataError(f"{path}: not a readable archive ({reason}); {_FIX}") from error
    return contents.__getitem__


def _batch(read: Callable[[str], bytes], path: Path, name: str) -> Mapping[Any, Any]:
    try:
        content = read(name)
    except (FileNotFoundError, KeyError) as error:
        raise DataError(f"{path}: {name} is missing, so this is not CIFAR-10's layout; {_FIX}") from error
    except OSError as error:
        raise DataError(f"{path}: {name} cannot be read ({error}); {_FIX}") from error
    try:
        document = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{path}: {name} {error}") from error
    except Exception as error:  # a pickle that is cut or damaged fails in many ways
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: {name} is cut short or damaged ({reason}); copy it again") from error
    if not isinstance(document, dict):
        raise DataError(f"{path}: {name} contains a {type(document).__name__}, expected CIFAR-10's dict; {_FIX}")
    return document


def _number(document: Mapping[Any, Any], key: bytes, path: Path) -> int:
    value = document.get(key)
    if not isinstance(value, int) or value < 1:
        raise DataError(f"{path}: batches.meta has {key.decode()} {value!r}, expected a number; {_FIX}")
    return value


def _images(document: Mapping[Any, Any], path: Path, name: str, count: int) -> tuple[ImageArray, LabelArray]:
    data, labels = document.get(b"data"), document.get(b"labels")
    if not isinstance(data, _Array) or not isinstance(labels, list):
        raise DataError(f"{path}: {name} lacks data or labels, so this is not CIFAR-10's layout; {_FIX}")
    pixels = data.rows(path, name)
    if len(pixels) != count or len(labels) != count:
        raise DataError(
            f"{path}: {name} has {len(pixels)} images and {len(labels)} labels, expected {count}; copy it again"
        )
    if not all(type(label) is int and 0 <= label < CLASSES for label in labels):
        raise DataError(f"{path}: {name} has labels other than 0 to {CLASSES - 1}; {_FIX}")
    return pixels.reshape(count, *PIXELS), np.array(labels, dtype=np.int64)


# -- the pickles ---------------------------------------------------------------------------------
# A batch is a pickled dict with one array. The classes and functions below replace all that a pickle may name: they
# only store their arguments, and any other name is an error, so a pickle cannot call code. A check of digests instead
# would refuse every copy that is not byte for byte the original, such as one packed again.


class _Dtype:
    def __init__(self, kind: Any, *_: Any) -> None:
        self.kind = kind.decode() if isinstance(kind, bytes) else kind

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment do not matter for single bytes."""


class _Array:
    def __init__(self, *_: Any) -> None:
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def rows(self, path: Path, name: str) -> ImageArray:
        """uint8 (count, 3072), as numpy's own `__setstate__` would build it."""
        match self._state:
            case (int(), (int(count), int(columns)), _Dtype(kind="u1"), fortran, bytes(data)) if (
                not fortran and columns == _ROW_BYTES and count >= 0 and len(data) == count * columns
            ):
                return np.frombuffer(data, dtype=np.uint8).reshape(count, columns)
        raise DataError(f"{path}: {name} contains no uint8 array of {_ROW_BYTES} columns; {_FIX}")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: Any, encoding: Any = None) -> bytes:
    """Python 3 writes bytes this way into pickles of protocol 2."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise DataError(f"names the encoding {encoding!r}, which is not part of CIFAR-10; {_FIX}")
    return text.encode("latin1")


_STAND_INS: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    """Reads plain Python values and one array. Any other name is an error."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise DataError(f"names {module}.{name}, which is not part of CIFAR-10, and was not read; {_FIX}") from None
