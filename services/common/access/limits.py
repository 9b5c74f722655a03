"""How many calls a second one caller may make."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from services.common.access.principal import Principal
from services.common.errors import Overloaded

__all__ = ["RateLimiter"]

_MAX_CALLERS: Final = 10_000


class RateLimiter:
    """A token bucket for each caller, in this process alone: behind n replicas a caller has up to n times its rate.

    A bucket holds one second's calls, at least one. Of more callers than `_MAX_CALLERS` the one that was quiet for the
    longest is forgotten, and then has a full bucket again.
    """

    def __init__(self, default_rate: float = 0.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Allow `default_rate` calls a second to callers without a rate of their own; 0: any number."""
        self._default = default_rate
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, principal: Principal) -> None:
        """Count one call.

        Raises:
            Overloaded: the caller has made as many as it may; says when there is room again.
        """
        rate = principal.rate or self._default
        # Our own services pass on what others have asked for, which was counted where it came in.
        if rate <= 0 or principal.kind == "peer":
            return
        now, most, who = self._clock(), max(1.0, rate), f"{principal.kind}:{principal.name}"
        left, at = self._buckets.pop(who, (most, now))
        left = min(most, left + (now - at) * rate)
        taken = left >= 1.0
        self._buckets[who] = (left - 1.0 if taken else left, now)
        if len(self._buckets) > _MAX_CALLERS:
            self._buckets.popitem(last=False)
        if not taken:
            raise Overloaded(
                f"the {principal} may make {rate:g} calls a second; try again a little later",
                reason="RATE_LIMITED",
                retry_after_s=(1.0 - left) / rate,
            )
