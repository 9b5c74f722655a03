"""Filters on both engines against a plain model of what they mean."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from saccade.common.v1 import types_pb2
from services.common.vectors import FilterTarget, Generation, SearchParams, VectorStore, compile_filter
from tests.integration.vectors_support import vectors_of
from tests.unit.common.vectors.filter_model import DIMENSION, filters, image_rows, passes, segment_rows


def comparison(value: float) -> types_pb2.Filter:
    message = types_pb2.Filter()
    message.metadata.path.append("a")
    message.metadata.equals.number_value = value
    return message


def large_filters() -> Iterator[types_pb2.Filter]:
    """Filters at each limit: wide, deep, wide and deep, long."""
    yield types_pb2.Filter(any=types_pb2.Filter.Any(filters=[comparison(number) for number in range(256)]))
    deep = comparison(1)
    for level in range(14):
        parts = [deep, *[comparison(number) for number in range(16)]]
        if level % 2:
            deep = types_pb2.Filter(all=types_pb2.Filter.All(filters=parts))
        else:
            deep = types_pb2.Filter(any=types_pb2.Filter.Any(filters=parts))
    yield deep
    yield types_pb2.Filter(ids=types_pb2.Filter.Ids(ids=[f"{number:064d}" for number in range(1000)]))
    names = [f"{number:03d}" + "x" * 250 for number in range(64)]
    yield types_pb2.Filter(tags=types_pb2.Filter.Tags(names=names))


async def test_the_largest_filters_are_understood(store: VectorStore, filtered: Generation) -> None:
    rows, target, probe = image_rows(), FilterTarget.IMAGES, vectors_of(1)
    for message in large_filters():
        for wanted in (message, types_pb2.Filter(negated=message)):
            hits = await store.search_images(
                filtered, probe, limit=1000, where=compile_filter(wanted, target), params=SearchParams(exact=True)
            )
            assert {hit.id for hit in hits[0]} == {row.id for row in rows if passes(wanted, row, target)}


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
@given(data=st.data())
@pytest.mark.timeout(300)
async def test_a_filter_passes_what_it_says(store: VectorStore, filtered: Generation, data: st.DataObject) -> None:
    target = data.draw(st.sampled_from(FilterTarget))
    wanted = data.draw(filters(target))
    where = compile_filter(wanted, target)
    probe = np.ones((1, DIMENSION), dtype=np.float32)
    exact = SearchParams(exact=True)
    if target is FilterTarget.IMAGES:
        images = [row.id for row in image_rows() if passes(wanted, row, target)]
        hits = (await store.search_images(filtered, probe, limit=1000, where=where, params=exact))[0]
        assert sorted(hit.id for hit in hits) == sorted(images), where
    else:
        segments = [(row.image_id, row.index) for row in segment_rows() if passes(wanted, row, target)]
        found = (await store.search_segments(filtered, probe, limit=1000, where=where, params=exact))[0]
        assert sorted((hit.image_id, hit.index) for hit in found) == sorted(segments), where
