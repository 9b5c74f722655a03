"""`saccade.ingest.v1.IngestService`: messages to calls of the library and back."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from saccade.ingest.v1 import ingest_service_pb2 as pb
from saccade.ingest.v1 import ingest_service_pb2_grpc
from services.common.access.guard import require, visible
from services.common.access.principal import Scope
from services.common.budget import ByteBudget
from services.common.deadline import call_deadline
from services.common.domain import Lane
from services.common.errors import InvalidArgument, Overloaded
from services.common.gate import RETRY_AFTER_S, Gate
from services.common.pages import page_size, read_token, write_token
from services.common.records import CollectionRecord, check_collection_name
from services.common.vectors import FilterTarget, compile_filter
from services.ingest.check import new_image
from services.ingest.collections import Collections
from services.ingest.jobs.service import Jobs
from services.ingest.library import Library
from services.ingest.reader import Reader
from services.ingest.settings import IngestSettings
from services.ingest.stream import stream_images
from services.ingest.translate import (
    changes,
    collection_to_message,
    found_to_message,
    job_to_message,
    new_collection,
    new_import,
    new_reindex,
    wait_for,
)
from services.ingest.vocabulary import Vocabularies, vocabulary_from_message, vocabulary_to_message

__all__ = ["IngestServicer"]

_Context = grpc.aio.ServicerContext[Any, Any]

_COUNTS_AT_ONCE = 8


class IngestServicer(ingest_service_pb2_grpc.IngestServiceServicer):
    """The contract, call by call."""

    def __init__(
        self,
        *,
        library: Library,
        reader: Reader,
        collections: Collections,
        vocabularies: Vocabularies,
        jobs: Jobs,
        gate: Gate,
        settings: IngestSettings,
    ) -> None:
        """Serve these; through `gate` come images to store, those of streams in the bulk lane."""
        self._jobs = jobs
        self._library = library
        self._reader = reader
        self._collections = collections
        self._vocabularies = vocabularies
        self._settings = settings
        self._gate = gate
        self._streams = 0
        self._stream_bytes = ByteBudget("streams", settings.max_bytes_in_hand // 2)

    async def CreateImage(  # noqa: N802
        self, request: pb.CreateImageRequest, context: _Context
    ) -> pb.CreateImageResponse:
        """Store one image and wait as far as asked."""
        return await self._create(request, interactive=True)

    async def StreamImages(  # noqa: N802
        self, requests: AsyncIterator[pb.StreamImagesRequest], context: _Context
    ) -> AsyncGenerator[pb.StreamImagesResponse, None]:
        """Store many, with a result for each."""

        async def create(message: pb.CreateImageRequest) -> pb.CreateImageResponse:
            async with self._gate.entered(Lane.BULK, patient=True):
                with call_deadline(self._settings.max_call_s):
                    async with asyncio.timeout(self._settings.max_call_s):
                        return await self._create(message, interactive=False)

        if self._streams >= self._settings.max_image_streams:
            raise Overloaded(
                f"{self._streams} streams are being served, and no more are taken; try again in {RETRY_AFTER_S:g} s",
                retry_after_s=RETRY_AFTER_S,
            )
        self._streams += 1
        try:
            results = stream_images(requests, create, window=self._settings.stream_window, budget=self._stream_bytes)
            async with aclosing(results) as responses:
                async for response in responses:
                    yield response
        finally:
            self._streams -= 1

    async def GetImage(self, request: pb.GetImageRequest, context: _Context) -> pb.GetImageResponse:  # noqa: N802
        """One image with its segments."""
        found = await self._reader.get(request.collection, request.id, vectors=request.include_vectors)
        image = found_to_message(
            request.collection,
            found,
            include_masks=request.include_masks,
            include_vectors=request.include_vectors,
        )
        return pb.GetImageResponse(image=image)

    async def ListImages(self, request: pb.ListImagesRequest, context: _Context) -> pb.ListImagesResponse:  # noqa: N802
        """Images of a collection."""
        question = request.collection.encode() + b"\0" + request.filter.SerializeToString(deterministic=True)
        found, after = await self._reader.page(
            check_collection_name(request.collection),
            where=compile_filter(request.filter, FilterTarget.IMAGES),
            start_after=read_token(question, request.page_token),
            limit=page_size(request.page_size),
        )
        images = [found_to_message(request.collection, image) for image in found]
        return pb.ListImagesResponse(images=images, next_page_token=write_token(question, after))

    async def UpdateImage(  # noqa: N802
        self, request: pb.UpdateImageRequest, context: _Context
    ) -> pb.UpdateImageResponse:
        """Change title, metadata or tags."""
        image = request.image
        record = await self._library.update(image.collection, image.id, image.etag, changes(request))
        found = await self._reader.located(image.collection, record)
        return pb.UpdateImageResponse(image=found_to_message(image.collection, found))

    async def DeleteImage(  # noqa: N802
        self, request: pb.DeleteImageRequest, context: _Context
    ) -> pb.DeleteImageResponse:
        """Remove an image."""
        await self._library.delete(request.collection, request.id, allow_missing=request.allow_missing)
        return pb.DeleteImageResponse()

    async def CreateCollection(  # noqa: N802
        self, request: pb.CreateCollectionRequest, context: _Context
    ) -> pb.CreateCollectionResponse:
        """Make a collection."""
        record = await self._collections.create(new_collection(request.collection))
        return pb.CreateCollectionResponse(collection=await self._counted(record))

    async def GetCollection(  # noqa: N802
        self, request: pb.GetCollectionRequest, context: _Context
    ) -> pb.GetCollectionResponse:
        """One collection with its counts."""
        record = await self._collections.get(request.name, "name")
        return pb.GetCollectionResponse(collection=await self._counted(record))

    async def ListCollections(  # noqa: N802
        self, request: pb.ListCollectionsRequest, context: _Context
    ) -> pb.ListCollectionsResponse:
        """All collections that the caller may see, by name."""
        question = b"collections"
        records, after = await self._collections.page(
            start_after=read_token(question, request.page_token), limit=page_size(request.page_size), visible=visible
        )
        slots = asyncio.Semaphore(_COUNTS_AT_ONCE)

        async def counted(index: int) -> pb.Collection:
            async with slots:
                return await self._counted(records[index])

        messages = await asyncio.gather(*(counted(i) for i in range(len(records))))
        return pb.ListCollectionsResponse(collections=messages, next_page_token=write_token(question, after))

    async def DeleteCollection(  # noqa: N802
        self, request: pb.DeleteCollectionRequest, context: _Context
    ) -> pb.DeleteCollectionResponse:
        """Remove a collection and everything in it."""
        await self._collections.delete(request.name, force=request.force)
        return pb.DeleteCollectionResponse()

    async def PutVocabulary(  # noqa: N802
        self, request: pb.PutVocabularyRequest, context: _Context
    ) -> pb.PutVocabularyResponse:
        """Make or replace a vocabulary."""
        record = vocabulary_from_message(request.vocabulary)
        await self._vocabularies.put(record)
        return pb.PutVocabularyResponse(vocabulary=vocabulary_to_message(record))

    async def GetVocabulary(  # noqa: N802
        self, request: pb.GetVocabularyRequest, context: _Context
    ) -> pb.GetVocabularyResponse:
        """One vocabulary; an empty name is the default one."""
        return pb.GetVocabularyResponse(vocabulary=vocabulary_to_message(await self._vocabularies.get(request.name)))

    async def ImportImages(  # noqa: N802
        self, request: pb.ImportImagesRequest, context: _Context
    ) -> pb.ImportImagesResponse:
        """Start storing what lies in a bucket, in a folder or at addresses."""
        return pb.ImportImagesResponse(job=job_to_message(await self._jobs.import_images(new_import(request))))

    async def ReindexCollection(  # noqa: N802
        self, request: pb.ReindexCollectionRequest, context: _Context
    ) -> pb.ReindexCollectionResponse:
        """Start building the next generation, or going back to the one before."""
        return pb.ReindexCollectionResponse(job=job_to_message(await self._jobs.reindex(new_reindex(request))))

    async def RetagCollection(  # noqa: N802
        self, request: pb.RetagCollectionRequest, context: _Context
    ) -> pb.RetagCollectionResponse:
        """Start choosing tags anew."""
        job = await self._jobs.retag(check_collection_name(request.collection), request.vocabulary)
        return pb.RetagCollectionResponse(job=job_to_message(job))

    async def RepairCollection(  # noqa: N802
        self, request: pb.RepairCollectionRequest, context: _Context
    ) -> pb.RepairCollectionResponse:
        """Start comparing what is stored with the index."""
        job = await self._jobs.repair(check_collection_name(request.collection), dry_run=request.dry_run)
        return pb.RepairCollectionResponse(job=job_to_message(job))

    async def GetJob(self, request: pb.GetJobRequest, context: _Context) -> pb.GetJobResponse:  # noqa: N802
        """One job."""
        return pb.GetJobResponse(job=job_to_message(await self._jobs.get(request.id)))

    async def ListJobs(self, request: pb.ListJobsRequest, context: _Context) -> pb.ListJobsResponse:  # noqa: N802
        """Jobs, newest first."""
        if request.collection:
            check_collection_name(request.collection)
        question = b"jobs\0" + request.collection.encode()
        jobs, after = await self._jobs.page(
            collection=request.collection,
            start_after=read_token(question, request.page_token),
            limit=page_size(request.page_size),
        )
        return pb.ListJobsResponse(jobs=map(job_to_message, jobs), next_page_token=write_token(question, after))

    async def CancelJob(self, request: pb.CancelJobRequest, context: _Context) -> pb.CancelJobResponse:  # noqa: N802
        """Stop a job."""
        # The request does not say which collection it touches.
        require(Scope.ADMIN, (await self._jobs.get(request.id)).collection, "id")
        return pb.CancelJobResponse(job=job_to_message(await self._jobs.cancel(request.id)))

    async def _counted(self, record: CollectionRecord) -> pb.Collection:
        counts = await self._collections.counts(record)
        return collection_to_message(record, counts, job=await self._jobs.at_work_on(record))

    async def _create(self, request: pb.CreateImageRequest, *, interactive: bool) -> pb.CreateImageResponse:
        if not request.HasField("image"):
            raise InvalidArgument("give the image to store", field="image")
        stored = await self._library.create(
            check_collection_name(request.collection),
            new_image(request.image),
            wait_for=wait_for(request.wait_for),
            replace=request.replace,
            interactive=interactive,
        )
        image = found_to_message(request.collection, await self._reader.located(request.collection, stored.record))
        return pb.CreateImageResponse(image=image, existed=stored.existed)
