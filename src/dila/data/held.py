"""Files that stay open from one clip to the next, in bounds: to open a video takes as long as to decode ten frames."""

import os
import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any


class Held:
    """What was last used, by a key; the oldest goes when there are too many or they take too much memory.

    What is taken out belongs to the taker until it is kept again, so threads cannot share it. A forked process begins
    with nothing: an open file's place in the file is common to both.

    Args:
        count: items at most.
        cost: sum of their costs at most.
    """

    def __init__(self, count: int, cost: int):
        self.count, self.cost = count, cost
        self._items: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._begin_anew)

    def __len__(self) -> int:
        return len(self._items)

    def take(self, key: Hashable) -> Any:
        """What was kept under the key, or None."""
        with self._lock:
            return self._items.pop(key, (None, 0))[0]

    def keep(self, key: Hashable, item: Any, cost: int) -> None:
        """Hold an item, which has `close`, for whoever asks next."""
        with self._lock:
            gone = [self._items.pop(key)] if key in self._items else []
            self._items[key] = (item, cost)
            while self._items and (len(self._items) > self.count or self._sum() > self.cost):
                gone.append(self._items.popitem(last=False)[1])
        for old, _ in gone:
            old.close()

    def clear(self) -> None:
        """Close all."""
        with self._lock:
            gone, self._items = self._items, OrderedDict()
        for item, _ in gone.values():
            item.close()

    def _sum(self) -> int:
        return sum(cost for _, cost in self._items.values())

    def _begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._items = OrderedDict()
