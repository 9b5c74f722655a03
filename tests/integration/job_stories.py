"""Stories of jobs, killed at every write or at every few; tests/faults tells them in full."""

from services.common.records import ImageState, original_key, record_key, segments_key, thumbnail_key
from services.common.vectors import Generation
from services.ingest.__main__ import Service
from services.ingest.collections import NewCollection
from services.ingest.files import ImageFiles
from services.ingest.jobs.service import NewReindex
from services.ingest.library import Changes
from tests.integration.ingest_support import picture
from tests.integration.mortal import Lives, carry_out, repair, stored

__all__ = ["built_anew", "mended"]

MANY = 200
"""More writes than any story has."""


async def built_anew(lives: Lives, *, stride: int) -> None:
    """A reindex, killed at every `stride`th write; each goes on from the generation that the one before left."""
    async with lives.live() as service:
        await service.collections.create(NewCollection("anew"))
        for image_id, data in (("a", picture("red")), ("b", picture("green"))):
            await stored(service, "anew", image_id, data)

    async def story(service: Service) -> None:
        job = await service.jobs.jobs.reindex(NewReindex("anew"))
        # Changed while it is built, and so marked as dirty.
        await service.library.update("anew", "a", "", Changes(title=job.id))
        await carry_out(service, job)

    for writes in range(0, MANY, stride):
        ended = await lives.tell(writes, story)
        await lives.recover()
        assert await lives.findings("anew") == {}, writes
        async with lives.live() as service:
            record = await service.collections.get("anew")
            assert (record.job, record.building) == ("", None)
            survey = await service.vectors.survey(Generation.of(record))
            kept = {record.generation} | ({record.previous.number} if record.previous else set())
            assert survey.numbers == kept
        if ended:
            assert writes >= 15
            return
    raise AssertionError("the story has no end")


async def mended(lives: Lives, *, stride: int) -> None:
    """A repair, killed at every `stride`th write; the next one finds what is left, and after it nothing is."""
    name, files = "mended", ImageFiles(lives.objects)
    async with lives.live() as service:
        await service.collections.create(NewCollection(name))
        for i in range(5):
            await stored(service, name, f"i{i}", picture(seed=i))
    for writes in range(0, MANY, stride):
        await lives.objects.delete(record_key(name, "i0"))
        await lives.objects.put(segments_key(name, "i1"), b"[")
        data = await lives.objects.get(original_key(name, "i2"))
        await lives.objects.delete(original_key(name, "i2"))
        await lives.objects.delete(thumbnail_key(name, "i3"))
        async with lives.live() as service:
            record = await service.collections.get(name)
            await service.vectors.delete_images(Generation.of(record), ["i4"])
        ended = await lives.tell(writes, lambda service: repair(service, name, mend=True))
        await lives.recover()
        await lives.findings(name, mend=True)
        await lives.recover()
        assert await lives.findings(name) == {}, writes
        failed = await files.read(name, "i2")
        assert failed is not None
        assert (failed.state, failed.failure_reason) == (ImageState.FAILED, "ORIGINAL_LOST")
        # It comes back, and all are whole for the next time.
        await lives.objects.put(original_key(name, "i2"), data)
        await lives.findings(name, mend=True)
        await lives.recover()
        for i in range(5):
            record_now = await files.read(name, f"i{i}")
            assert record_now is not None
            assert record_now.state is ImageState.SEGMENTED
        if ended:
            assert writes >= 20
            return
    raise AssertionError("the story has no end")
