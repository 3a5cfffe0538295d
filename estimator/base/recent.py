"""A cache of the values used most recently, for several threads."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """The values used most recently, by their key: at most `most`, and of at most `most_size` together.

    The newest value is kept whatever its size.
    """

    def __init__(self, most: int, most_size: float = math.inf) -> None:
        self._most, self._most_size = most, most_size
        self._values: OrderedDict[object, tuple[T, int]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, key: object) -> T | None:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key][0]
        return None

    def put(self, key: object, value: T, size: int = 0) -> T:
        with self._lock:
            _, before = self._values.pop(key, (None, 0))
            self._values[key] = (value, size)
            self._size += size - before
            while len(self._values) > self._most or (self._size > self._most_size and len(self._values) > 1):
                self._size -= self._values.popitem(last=False)[1][1]
        return value

    def __len__(self) -> int:
        return len(self._values)
