"""A cache that holds the values used last, up to a number of bytes.

A mixture of hundreds of data sets has hundreds of caches, and a limit on each is none on the memory of the process: together
they take at most a quarter of the machine's memory, in equal shares.
"""

import os
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

UNLIMITED = 1 << 62      # limit of a cache that is to hold everything
TOGETHER = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4     # bytes of all limited caches of this process
_LIMITED: "weakref.WeakSet[ByteCache]" = weakref.WeakSet()


class ByteCache(Generic[Key, Value]):
    """Least recently used values go first; the newest one always stays, however large.

    Args:
        limit: bytes; UNLIMITED: everything stays, and takes no share from other caches.
        size: bytes of a value.
    """

    def __init__(self, limit: int, size: Callable[[Value], int]) -> None:
        self.limit, self.size, self.held = limit, size, 0
        self._values: OrderedDict[Key, Value] = OrderedDict()
        if limit < UNLIMITED:
            _LIMITED.add(self)

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of `key`, made where it is not held."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = self._values[key] = make()
        self.held += self.size(value)
        limit = self.limit if self.limit >= UNLIMITED else min(self.limit, TOGETHER // max(1, len(_LIMITED)))
        while self.held > limit and len(self._values) > 1:
            self.held -= self.size(self._values.popitem(last=False)[1])
        return value
