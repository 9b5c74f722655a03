import asyncio

import pytest

from services.common.domain import Lane
from services.common.errors import NotFound
from services.common.records import ImageRecord, ImageState
from services.ingest.work import Work
from tests.unit.ingest.test_markers import RECORD


def at(state: ImageState) -> ImageRecord:
    return RECORD.model_copy(update={"state": state})


async def test_who_waits_is_told_how_far_it_is() -> None:
    work = Work(("c", "a"))
    waiting = asyncio.create_task(work.reached(ImageState.SEGMENTED))
    seen = []
    for state in (ImageState.DURABLE, ImageState.SEARCHABLE):
        work.note(at(state))
        seen.append(work.searchable)
    assert seen == [False, True]
    assert (await work.reached(ImageState.SEARCHABLE)).state is ImageState.SEARCHABLE
    assert not waiting.done()
    work.note(at(ImageState.SEGMENTED))
    assert (await waiting).state is ImageState.SEGMENTED
    work.end(NotFound("too late to matter"))
    assert (await work.reached(ImageState.SEARCHABLE)).state is ImageState.SEARCHABLE


async def test_who_waits_is_told_that_it_stops() -> None:
    work = Work(("c", "a"))
    work.note(at(ImageState.SEARCHABLE))
    work.end(NotFound("gone"))
    with pytest.raises(NotFound):
        await work.reached(ImageState.SEGMENTED)


async def test_who_gives_up_does_not_take_it_from_the_others() -> None:
    work = Work(("c", "a"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await work.reached(ImageState.SEARCHABLE)
    work.note(at(ImageState.SEARCHABLE))
    assert (await work.reached(ImageState.SEARCHABLE)).id == "a"


async def test_what_somebody_waits_for_goes_in_front() -> None:
    work = Work(("c", "a"), data=b"x")
    work.want(ImageState.DURABLE, interactive=True)
    assert (work.embed_lane, work.analyze_lane, work.needed) == (Lane.BULK, Lane.BULK, False)
    work.want(ImageState.SEARCHABLE, interactive=True)
    assert (work.embed_lane, work.analyze_lane, work.needed) == (Lane.INTERACTIVE, Lane.BULK, False)
    work.want(ImageState.SEGMENTED, interactive=False)
    assert (work.embed_lane, work.analyze_lane, work.needed) == (Lane.INTERACTIVE, Lane.BULK, True)
    work.want(ImageState.SEGMENTED, interactive=True)
    assert work.analyze_lane is Lane.INTERACTIVE
    assert (work.take_data(), work.take_data()) == (b"x", b"")
