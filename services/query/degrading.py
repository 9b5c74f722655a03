"""What a search does without: segments where only they fail, records where the object store does."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from services.common.deadline import call_deadline, time_left_s
from services.common.errors import DeadlineExceeded, Internal, NotFound, SaccadeError, Unavailable
from services.query.domain import Mode, SearchQuery

__all__ = ["INDEX_MISSING", "SegmentsLost", "can_do_without_segments", "in_good_time", "needs_segments", "whole_only"]

INDEX_MISSING: Final = "INDEX_MISSING"
"""The vector store's reason where it does not have a collection's index."""
# Share of a call's time that may go by before it is done without.
_SHARE: Final = 0.6


class SegmentsLost(Exception):
    """Segments can not be searched or read; `cause` says why."""

    def __init__(self, cause: SaccadeError) -> None:
        super().__init__(cause.message)
        self.cause = cause


@contextmanager
def in_good_time() -> Iterator[None]:
    """What is inside ends while there is time left to do without it."""
    left_s = time_left_s(math.inf)
    with call_deadline(left_s * _SHARE if math.isfinite(left_s) else left_s):
        yield


@contextmanager
def needs_segments() -> Iterator[None]:
    """Around what reads or searches segments; SegmentsLost where the index fails at it."""
    try:
        with in_good_time():
            yield
    except (Unavailable, DeadlineExceeded, Internal) as exc:
        raise SegmentsLost(exc) from exc
    except NotFound as exc:
        if exc.reason != INDEX_MISSING:
            raise
        raise SegmentsLost(exc) from exc


def can_do_without_segments(query: SearchQuery) -> bool:
    """Whether whole images alone are an answer."""
    return query.mode is Mode.HYBRID and query.whole_weight > 0 and query.segment_weight > 0


def whole_only(query: SearchQuery) -> SearchQuery:
    """The same query of whole images: nothing of it speaks of segments any more."""
    parts = tuple(replace(part, placement=None, count=0) for part in query.parts)
    return replace(query, parts=parts, relations=(), segment_weight=0.0, segment_where="")
