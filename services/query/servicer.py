"""QueryService: messages in, messages out."""

import asyncio
from typing import Any, Final

import grpc
import numpy as np

from saccade.query.v1 import query_service_pb2 as pb
from saccade.query.v1.query_service_pb2_grpc import QueryServiceServicer
from services.common.images import ImageLimits
from services.common.messages import segment_to_message
from services.common.pages import page_size, read_token, write_token
from services.common.records import check_collection_name
from services.common.vectors import Consistency, FilterTarget, Generation, compile_filter
from services.query.collections import Collections
from services.query.embedding import PartEmbedder
from services.query.picture import PictureSegmenter
from services.query.projection import Projector, flatten
from services.query.request import read_projection, read_search, read_top
from services.query.response import answer_to_message
from services.query.search import Search
from services.query.tags import TagCounter

__all__ = ["QueryServicer"]

_Context = grpc.aio.ServicerContext[Any, Any]

DEFAULT_SEGMENTS: Final = 10
MAX_SEGMENTS: Final = 64
_MOST_IMAGES: Final = 10**12 - 1


class QueryServicer(QueryServiceServicer):
    """Translates between the contract and the service."""

    def __init__(
        self,
        *,
        search: Search,
        segmenter: PictureSegmenter,
        collections: Collections,
        tags: TagCounter,
        projector: Projector,
        embedder: PartEmbedder,
        limits: ImageLimits,
    ) -> None:
        """Serve with these; `limits` are those of the pictures sent."""
        self._search = search
        self._segmenter = segmenter
        self._collections = collections
        self._tags = tags
        self._projector = projector
        self._embedder = embedder
        self._limits = limits

    async def Search(self, request: pb.SearchRequest, context: _Context) -> pb.SearchResponse:  # noqa: N802 - the contract's
        """Images that fit the parts of a query, best first."""
        # Looking into pictures and hashing them would hold up all other calls.
        query = await asyncio.to_thread(read_search, request, self._limits)
        answer = await self._search.run(query)
        return answer_to_message(query.collection, answer, include_masks=query.include_masks)

    async def SegmentImage(  # noqa: N802
        self, request: pb.SegmentImageRequest, context: _Context
    ) -> pb.SegmentImageResponse:
        """The segments of a picture that is not stored."""
        collection = check_collection_name(request.collection)
        most = read_top(request.max_segments, "max_segments", default=DEFAULT_SEGMENTS, most=MAX_SEGMENTS)
        segments = await self._segmenter.segments(collection, request.image, most)
        return pb.SegmentImageResponse(
            segments=[segment_to_message(segment, include_mask=True) for segment in segments]
        )

    async def ListTags(self, request: pb.ListTagsRequest, context: _Context) -> pb.ListTagsResponse:  # noqa: N802
        """The tags of a collection with how many images carry them, most frequent first."""
        name = check_collection_name(request.collection)
        where = compile_filter(request.filter, FilterTarget.IMAGES)
        size = page_size(request.page_size)
        question = pb.ListTagsRequest(collection=name, filter=request.filter).SerializeToString(deterministic=True)
        after = read_token(question, request.page_token)
        record = await self._collections.get(name)
        vocabulary = await self._collections.vocabulary_of(record)
        counts = await self._tags.most_frequent(Generation.of(record), where)
        categories = {entry.name: entry.category for entry in vocabulary.entries} if vocabulary else {}
        left = [(tag, count) for tag, count in counts if _place(tag, count) > after]
        page = left[:size]
        return pb.ListTagsResponse(
            tags=[pb.TagCount(name=tag, category=categories.get(tag, ""), image_count=count) for tag, count in page],
            next_page_token=write_token(question, _place(*page[-1])) if len(left) > size else "",
        )

    async def ProjectImages(  # noqa: N802
        self, request: pb.ProjectImagesRequest, context: _Context
    ) -> pb.ProjectImagesResponse:
        """A collection on a plane, with a query's parts on it."""
        wanted = await asyncio.to_thread(read_projection, request, self._limits)
        record = await self._collections.get(wanted.collection)
        images, vectors = await self._projector.sample(Generation.of(record), wanted.where, wanted.max_images)
        embedded = await self._embedder.embed(wanted.parts, record, Consistency.BOUNDED, with_segments=False)
        others = np.array([part.vector for part in embedded.parts], dtype=np.float32)
        map_ = await asyncio.to_thread(
            flatten, vectors, others.reshape(len(wanted.parts), record.dimension), wanted.method
        )
        return pb.ProjectImagesResponse(
            images=[
                pb.ProjectedImage(image_id=image.id, x=x, y=y, tag=image.tag)
                for image, (x, y) in zip(images, map_.images.tolist(), strict=True)
            ],
            parts=[pb.ProjectedImage(x=x, y=y) for x, y in map_.others.tolist()],
            explained_variance=map_.explained,
        )


def _place(tag: str, count: int) -> str:
    """Where a tag stands in the list: what sorts as the list does."""
    return f"{_MOST_IMAGES - count:012d} {tag}"
