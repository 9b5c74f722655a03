"""A query service with all that it needs, and a small gallery of coloured patches whose right answers are plain."""

import asyncio
import io
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image, ImageDraw

from saccade.channel import channel_options
from saccade.common.v1 import types_pb2
from saccade.errors import api_error
from saccade.query.v1 import query_service_pb2 as pb
from saccade.query.v1.query_service_pb2_grpc import QueryServiceStub
from services.common.domain import Analysis, Segment, VocabularyEntry
from services.common.embedder_client import EmbedderClient
from services.common.objects import LocalObjects, ObjectStore
from services.common.records import (
    CollectionRecord,
    ImageRecord,
    ImageState,
    SegmentsRecord,
    TagRecord,
    VocabularyEntryRecord,
    VocabularyRecord,
    collection_key,
    original_key,
    record_key,
    segments_key,
    thumbnail_key,
    vocabulary_key,
)
from services.common.settings import ObjectSettings, VectorSettings
from services.common.vectors import Generation, ImageRow, SegmentRow, VectorStore
from tests.engines import Process, free_ports

__all__ = [
    "GHOST",
    "LEFT",
    "MIDDLE",
    "NEW",
    "OLD",
    "PICTURES",
    "RIGHT",
    "TIMEOUT_S",
    "TOY",
    "Stack",
    "box",
    "connected",
    "ids",
    "load_gallery",
    "picture",
    "refused",
    "remove_collection",
    "scores",
    "search",
    "start_process",
    "text",
]

TIMEOUT_S: Final = 20
TOY: Final = {"SACCADE_MODEL": "toy", "SACCADE_SEGMENTER": "toy"}
SIDE: Final = 64
COLOURS: Final = {
    "red": (220, 30, 30),
    "yellow": (245, 225, 40),
    "green": (40, 160, 60),
    "blue": (40, 70, 210),
    "white": (250, 250, 250),
}
LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
TOP_LEFT, MIDDLE = (0.0, 0.0, 0.25, 0.25), (0.375, 0.375, 0.625, 0.625)
Patch = tuple[str, tuple[float, float, float, float]]

# Background, patches.
PICTURES: Final[dict[str, tuple[str, tuple[Patch, ...]]]] = {
    "red": ("red", ()),
    "blue": ("blue", ()),
    "green": ("green", ()),
    "red-corner": ("white", (("red", TOP_LEFT),)),
    "red-middle": ("white", (("red", MIDDLE),)),
    "blue-middle": ("white", (("blue", MIDDLE),)),
    "green-middle": ("white", (("green", MIDDLE),)),
    "red-green": ("red", (("green", RIGHT),)),
    "red-blue": ("red", (("blue", RIGHT),)),
    "green-blue": ("green", (("blue", RIGHT),)),
    "yellow-blue": ("yellow", (("blue", MIDDLE),)),
}
OLD: Final = frozenset({"blue-middle", "green"})
"""Whose titles say so."""
NEW: Final = "red-new"
"""Whole vector only: not taken apart yet."""
GHOST: Final = "red-ghost"
"""In the index alone: its objects are gone."""


def picture(background: str, patches: tuple[Patch, ...] = (), side: int = SIDE) -> bytes:
    """A PNG of coloured rectangles."""
    image = Image.new("RGB", (side, side), COLOURS[background])
    draw = ImageDraw.Draw(image)
    for colour, (x0, y0, x1, y1) in patches:
        draw.rectangle((x0 * side, y0 * side, x1 * side - 1, y1 * side - 1), fill=COLOURS[colour])
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


@dataclass(frozen=True)
class Stack:
    """Where everything is."""

    milvus_uri: str
    embedder: str
    root: Path

    @property
    def environment(self) -> dict[str, str]:
        """Settings of a query service on this stack."""
        return {
            "SACCADE_MILVUS_URI": self.milvus_uri,
            "SACCADE_EMBEDDER_ADDRESS": f"dns:///{self.embedder}",
            "SACCADE_OBJECTS_URL": f"file://{self.root}",
            "SACCADE_QUERY_VOCABULARY": "colours",
            "SACCADE_ALLOW_PRIVATE_URLS": "true",
        }

    def object_store(self) -> LocalObjects:
        """The objects."""
        return LocalObjects(ObjectSettings(objects_url=f"file://{self.root}"), root=str(self.root))


@contextmanager
def start_process(module: str, settings: Mapping[str, str]) -> Iterator[tuple[Process, str]]:
    """Run one of our services on a free port until it is ready; the process and its address."""
    port, metrics = free_ports(2)
    address = f"127.0.0.1:{port}"
    env = {name: value for name, value in os.environ.items() if not name.startswith("SACCADE_")}
    env |= {"SACCADE_LISTEN": address, "SACCADE_METRICS_LISTEN": f"127.0.0.1:{metrics}", **settings}
    command = [sys.executable, "-m", module]
    with Process(command, ready=partial(_is_serving, address), env=env) as process:
        yield process, address


@contextmanager
def connected(address: str) -> Iterator[QueryServiceStub]:
    """A stub for a query service."""
    with grpc.insecure_channel(f"dns:///{address}", options=channel_options()) as channel:
        yield QueryServiceStub(channel)


def _is_serving(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2)  # type: ignore[attr-defined]
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def load_gallery(stack: Stack) -> None:
    """Store the gallery as collection `toys`, with the empty collections `bare`, `brief`, `deaf` and `foreign`."""
    asyncio.run(_load(stack))


async def _load(stack: Stack) -> None:
    embedder = EmbedderClient(f"dns:///{stack.embedder}", timeout_s=30)
    vectors = VectorStore(VectorSettings(milvus_uri=stack.milvus_uri))
    objects = stack.object_store()
    try:
        model = await embedder.get_model()
        toys = CollectionRecord(
            name="toys", model=model.model, fingerprint=model.fingerprint, dimension=model.dimension, created_at_ms=1
        )
        for record in (
            toys,
            toys.model_copy(update={"name": "bare"}),
            toys.model_copy(update={"name": "brief"}),
            toys.model_copy(update={"name": "deaf", "has_text": False}),
            toys.model_copy(update={"name": "foreign", "fingerprint": "another"}),
        ):
            await vectors.create_generation(Generation.of(record))
            await vectors.activate(Generation.of(record))
            await objects.put(collection_key(record.name), record.to_bytes())
        entries = tuple(VocabularyEntryRecord(name=name, category="colour") for name in COLOURS)
        await objects.put(vocabulary_key("colours"), VocabularyRecord(name="colours", entries=entries).to_bytes())
        loader = _Loader(embedder, vectors, objects, toys)
        for shelf, (name, (background, patches)) in enumerate(PICTURES.items()):
            await loader.store(name, picture(background, patches), shelf)
        red = picture("red")
        await loader.store(NEW, red, 90, segmented=False)
        await loader.store(GHOST, red, 91, stored=False)
    finally:
        await vectors.close()
        await objects.close()
        await embedder.close()


def text(words: str, weight: float = 1) -> pb.Part:
    return pb.Part(text=words, weight=weight)


def box(x0: float, y0: float, x1: float, y1: float) -> types_pb2.BoundingBox:
    return types_pb2.BoundingBox(x0=x0, y0=y0, x1=x1, y1=y1)


def search(query: QueryServiceStub, *parts: pb.Part, **fields: Any) -> pb.SearchResponse:
    request = pb.SearchRequest(collection=fields.pop("collection", "toys"), parts=parts, **fields)
    return query.Search(request, timeout=TIMEOUT_S)


def ids(response: pb.SearchResponse) -> list[str]:
    return [result.image.id for result in response.results]


def scores(response: pb.SearchResponse) -> dict[str, float]:
    return {result.image.id: result.score for result in response.results}


def refused(query: QueryServiceStub, *parts: pb.Part, **fields: Any) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        search(query, *parts, **fields)
    error = api_error(caught.value)
    return error.code, error.fields[0][0] if error.fields else "", error.reason


def remove_collection(stack: Stack, name: str) -> None:
    """Take an empty collection away, as ingest does."""

    async def remove() -> None:
        vectors, objects = VectorStore(VectorSettings(milvus_uri=stack.milvus_uri)), stack.object_store()
        await objects.delete(collection_key(name))
        await vectors.drop_collection(name)
        await vectors.close()
        await objects.close()

    asyncio.run(remove())


@dataclass(frozen=True)
class _Loader:
    """Does what ingest would do."""

    embedder: EmbedderClient
    vectors: VectorStore
    objects: ObjectStore
    collection: CollectionRecord

    async def store(self, name: str, data: bytes, shelf: int, *, segmented: bool = True, stored: bool = True) -> None:
        vocabulary = [VocabularyEntry(colour, "colour") for colour in COLOURS]
        (analysis,) = await self.embedder.analyze_images([data], vocabulary=vocabulary)
        assert isinstance(analysis, Analysis)
        image = ImageRow(
            id=name,
            vector=analysis.vector,
            tags=dict.fromkeys(name.split("-"), 1.0)
            | {tag.name: tag.confidence for tag in analysis.tags if tag.name not in name.split("-")},
            metadata={"shelf": shelf, "note": 'said "hi"'},
            width=analysis.width,
            height=analysis.height,
            created_at_ms=shelf + 1,
            text=_title(name),
        )
        generation = Generation.of(self.collection)
        await self.vectors.upsert_images(generation, [image])
        if segmented:
            await self.vectors.replace_segments(generation, name, [_segment_row(image, s) for s in analysis.segments])
        if stored:
            await self._put_objects(image, analysis, data, segmented)

    async def _put_objects(self, image: ImageRow, analysis: Analysis, data: bytes, segmented: bool) -> None:
        record = ImageRecord(
            id=image.id,
            state=ImageState.SEGMENTED if segmented else ImageState.SEARCHABLE,
            content_type="image/png",
            size_bytes=len(data),
            width=image.width,
            height=image.height,
            sha256="0" * 64,
            source=f"{image.id}.png",
            title=image.text,
            metadata=image.metadata,
            user_tags=tuple(image.id.split("-")),
            model_tags=tuple(
                TagRecord(name=tag.name, category=tag.category, confidence=tag.confidence) for tag in analysis.tags
            ),
            segment_count=len(analysis.segments),
            fingerprint=self.collection.fingerprint,
            generation=1,
            created_at_ms=image.created_at_ms,
            updated_at_ms=image.created_at_ms,
            etag="1",
        )
        await self.objects.put(original_key("toys", image.id), data)
        await self.objects.put(thumbnail_key("toys", image.id), data)
        if segmented:
            await self.objects.put(segments_key("toys", image.id), SegmentsRecord.of(analysis.segments).to_bytes())
        await self.objects.put(record_key("toys", image.id), record.to_bytes())


def _title(name: str) -> str:
    """Words that no picture shows."""
    return f"{'Old' if name in OLD else 'New'} painting of {name.replace('-', ' and ')}"


def _segment_row(image: ImageRow, segment: Segment) -> SegmentRow:
    assert segment.vector is not None
    return SegmentRow(
        image_id=image.id,
        index=segment.index,
        vector=segment.vector,
        box=segment.box,
        area=segment.area_fraction,
        stability=segment.stability,
        tags={tag.name: tag.confidence for tag in segment.tags},
        image_tags=image.tags,
        metadata=image.metadata,
        width=image.width,
        height=image.height,
        created_at_ms=image.created_at_ms,
    )
