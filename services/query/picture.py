"""A picture that is not stored, taken apart."""

import asyncio

from services.common.domain import Lane, Segment, VocabularyEntry
from services.common.embedder_client import EmbedderClient
from services.common.images import ImageLimits, probe
from services.query.collections import Collections
from services.query.embedding import only_result

__all__ = ["PictureSegmenter"]


class PictureSegmenter:
    """Finds what a person may click on in a picture. Safe for concurrent use."""

    def __init__(self, collections: Collections, embedder: EmbedderClient, limits: ImageLimits) -> None:
        """Ask these."""
        self._collections = collections
        self._embedder = embedder
        self._limits = limits

    async def segments(self, collection: str, image: bytes, max_segments: int) -> tuple[Segment, ...]:
        """The picture's segments, best first, with masks and with tags of the collection's vocabulary.

        Raises:
            NotFound: no such collection.
            InvalidImage: the picture can not be used; names `image`.
            FailedPrecondition: the embedder has no segmenter, or another model than the collection.
        """
        await asyncio.to_thread(probe, image, self._limits, "image")
        record = await self._collections.get(collection)
        vocabulary = await self._collections.vocabulary_of(record)
        made = await self._embedder.analyze_images(
            [image],
            model=record.model,
            lane=Lane.INTERACTIVE,
            max_segments=max_segments,
            vocabulary=[VocabularyEntry(e.name, e.category) for e in vocabulary.entries] if vocabulary else (),
            prompt_templates=vocabulary.prompt_templates if vocabulary else (),
            fingerprint=record.fingerprint,
        )
        return only_result(made, "image").segments
