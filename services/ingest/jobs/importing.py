"""`ImportImages`: what lies in a bucket, in a folder or at addresses, stored image by image.

An image's id is made from its content, so whatever a killed job had stored is seen to be there when it goes on; a page
of items is done before the cursor goes behind it. Images are only made durable here, in bulk; where too many are not
indexed yet the import waits for those that index.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from services.common.errors import DeadlineExceeded, InvalidImage, SaccadeError, Unavailable
from services.common.fetch import ImageFetcher
from services.common.records import ImageState
from services.ingest.check import NewImage
from services.ingest.jobs.record import JobRecord
from services.ingest.jobs.run import JobFailed, Run, Stopped
from services.ingest.jobs.sources import Addresses, Bucket, Folder, Source, check_folder
from services.ingest.jobs.store import JobStore
from services.ingest.library import Library
from services.ingest.markers import MarkerStore
from services.ingest.settings import IngestSettings

__all__ = ["Import"]

_PAGE: Final = 64
_READS: Final = 3
_FIRST_PAUSE_S: Final = 0.5
_BACKLOG_PAUSE_S: Final = 1.0
_MAX_SOURCE_CHARS: Final = 4_096


class Import:
    """The body of import jobs; see the module."""

    def __init__(
        self,
        *,
        library: Library,
        markers: MarkerStore,
        fetcher: ImageFetcher,
        store: JobStore,
        settings: IngestSettings,
    ) -> None:
        """Store through `library`, by these settings."""
        self._library = library
        self._markers = markers
        self._fetcher = fetcher
        self._store = store
        self._settings = settings

    async def run(self, run: Run) -> str:
        """Store what is not stored yet; see JobBody."""
        source = await self._source(run)
        try:
            return await self._through(run, source)
        finally:
            await source.close()

    async def abort(self, run: Run) -> None:
        """What was stored stays; see JobBody."""

    async def ended(self, job: JobRecord) -> None:
        """Nothing was held; see JobBody."""

    async def _source(self, run: Run) -> Source:
        params: Mapping[str, Any] = run.job.params
        most = self._settings.max_image_bytes
        try:
            if "bucket" in params:
                return Bucket(self._settings, params["bucket"], params["prefix"], max_bytes=most)
            if "folder" in params:
                folder = check_folder(self._settings, params["folder"])
                return Folder(self._settings, folder, max_bytes=most)
        except SaccadeError as exc:
            raise JobFailed(exc.message) from exc
        return Addresses(self._fetcher, await run.ask(self._store.attached, run.job.id))

    async def _through(self, run: Run, source: Source) -> str:
        run.update(detail="storing images")
        while page := await run.ask(source.page, run.job.cursor, _PAGE):
            await self._wait_for_room(run)
            await self._store_all(run, source, [name for _, name in page])
            run.update(cursor=page[-1][0], total=max(run.job.total, run.job.done + run.job.failed))
            await run.save()
        run.update(total=run.job.done + run.job.failed)
        failed = f"; {run.job.failed:,} could not be" if run.job.failed else ""
        return f"{run.job.done:,} images are stored{failed}"

    async def _wait_for_room(self, run: Run) -> None:
        limit = self._settings.import_backlog
        while len(await run.ask(self._markers.ids, run.job.collection, limit=limit)) >= limit:
            run.update(detail=f"waiting, since {limit:,} images are not indexed yet")
            await run.pause(_BACKLOG_PAUSE_S)
            run.update(detail="storing images")

    async def _store_all(self, run: Run, source: Source, names: Sequence[str]) -> None:
        """Store a page; counts change once it is done, together with the cursor."""
        slots = asyncio.Semaphore(self._settings.import_concurrency)

        async def store(name: str) -> SaccadeError | None:
            async with slots:
                run.check()
                try:
                    await self._store_one(run, source, name)
                except SaccadeError as exc:
                    if exc.reason == "COLLECTION_NOT_FOUND":
                        raise Stopped("the collection was deleted") from exc
                    return exc
                return None

        results = await asyncio.gather(*map(store, names), return_exceptions=True)
        for result in results:
            # All have ended by now: none goes on behind the job's back.
            if isinstance(result, BaseException) and not isinstance(result, SaccadeError):
                raise result
        for name, result in zip(names, results, strict=True):
            if isinstance(result, SaccadeError):
                # The field is one of a request that nobody sent.
                run.failed(name, type(result)(result.message, reason=result.reason))
        run.update(done=run.job.done + sum(result is None for result in results))

    async def _store_one(self, run: Run, source: Source, name: str) -> None:
        data = await self._read(run, source, name)
        new = NewImage(data=data, source=name[:_MAX_SOURCE_CHARS], tags=tuple(run.job.params["tags"]))
        await run.ask(
            self._library.create,
            run.job.collection,
            new,
            wait_for=ImageState.DURABLE,
            replace=False,
            interactive=False,
        )

    async def _read(self, run: Run, source: Source, name: str) -> bytes:
        """The item's bytes; what does not answer is asked a few times, for it need not be the store's own fault."""
        pause_s = _FIRST_PAUSE_S
        for attempt in range(1, _READS + 1):
            try:
                data = await source.read(name)
            except (Unavailable, DeadlineExceeded):
                if attempt == _READS:
                    raise
                await run.pause(pause_s)
                pause_s *= 4
            else:
                if not data:
                    raise InvalidImage("is empty")
                return data
        raise AssertionError("the last attempt returns or raises")
