"""QueryService: messages in, messages out."""

import asyncio
from typing import Any, Final

import grpc

from saccade.query.v1 import query_service_pb2 as pb
from saccade.query.v1.query_service_pb2_grpc import QueryServiceServicer
from services.common.errors import Unimplemented
from services.common.images import ImageLimits
from services.common.messages import segment_to_message
from services.common.records import check_collection_name
from services.query.concurrency import Gate
from services.query.picture import PictureSegmenter
from services.query.request import read_search, read_top
from services.query.response import answer_to_message
from services.query.search import Search

__all__ = ["QueryServicer"]

_Context = grpc.aio.ServicerContext[Any, Any]

DEFAULT_SEGMENTS: Final = 10
MAX_SEGMENTS: Final = 64


class QueryServicer(QueryServiceServicer):
    """Translates between the contract and the service."""

    def __init__(self, search: Search, segmenter: PictureSegmenter, gate: Gate, limits: ImageLimits) -> None:
        """Serve with these; `gate` bounds the calls at work, `limits` the pictures sent."""
        self._search = search
        self._segmenter = segmenter
        self._gate = gate
        self._limits = limits

    async def Search(self, request: pb.SearchRequest, context: _Context) -> pb.SearchResponse:  # noqa: N802 - the contract's
        """Images that fit the parts of a query, best first."""
        async with self._gate.entered():
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
        async with self._gate.entered():
            segments = await self._segmenter.segments(collection, request.image, most)
        return pb.SegmentImageResponse(
            segments=[segment_to_message(segment, include_mask=True) for segment in segments]
        )

    async def ListTags(self, request: pb.ListTagsRequest, context: _Context) -> pb.ListTagsResponse:  # noqa: N802
        """Not offered yet."""
        raise Unimplemented("ListTags is not offered by this version; a search's results carry their images' tags")

    async def ProjectImages(  # noqa: N802
        self, request: pb.ProjectImagesRequest, context: _Context
    ) -> pb.ProjectImagesResponse:
        """Not offered yet."""
        raise Unimplemented("ProjectImages is not offered by this version")
