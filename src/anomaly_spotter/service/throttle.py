"""Slows down who guesses passwords: after a few failures a name or an address waits, twice as long each time."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_FREE = 5  # failures before the first wait
_FIRST, _LONGEST = 2.0, 900.0  # seconds
_REMEMBERED = 10_000  # names and addresses; the oldest are forgotten, so that guessing cannot fill the memory


class Throttle:
    """Failures by name and address, in memory."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait(self, *names: str) -> int:
        """Seconds until another attempt is allowed, 0 for now."""
        with self._lock:
            now = self._clock()
            until = max(self._failures.get(name, (0, now))[1] for name in names)
            return max(0, math.ceil(until - now))

    def failed(self, *names: str) -> None:
        """Note a failure."""
        with self._lock:
            for name in names:
                count = self._failures.pop(name, (0, 0.0))[0] + 1
                pause = 0.0 if count < _FREE else min(_LONGEST, _FIRST * 2.0 ** min(count - _FREE, 30))
                self._failures[name] = (count, self._clock() + pause)
            while len(self._failures) > _REMEMBERED:
                self._failures.popitem(last=False)

    def succeeded(self, *names: str) -> None:
        """Forget the failures."""
        with self._lock:
            for name in names:
                self._failures.pop(name, None)
