"""How much may go on at a time: the counters behind the guard."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from services.common.errors import Overloaded

__all__ = ["Room"]


class Room:
    """Places for what goes on at a time, in all and for each caller."""

    def __init__(self, places: int, *, per_name: int, what: str) -> None:
        """Have so many places for `what`, of which one name takes `per_name` at most."""
        self._free = places
        self._per_name = per_name
        self._what = what
        self._taken: Counter[str] = Counter()

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place while the block runs; Overloaded if there is none."""
        if self._free <= 0:
            raise Overloaded(f"too many {self._what} at a time; send it again in a moment", retry_after_s=1)
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1

    @contextmanager
    def place_of(self, name: str) -> Iterator[None]:
        """The same, of those that this caller may take; it is counted beside `place`."""
        if self._taken[name] >= self._per_name:
            detail = f"one key has {self._per_name} {self._what} at a time at most; wait for some of them"
            raise Overloaded(detail, reason="TOO_MANY_OF_KEY", retry_after_s=1)
        self._taken[name] += 1
        try:
            yield
        finally:
            self._taken[name] -= 1
            if not self._taken[name]:
                del self._taken[name]
