"""What all models of an embedder share: decoding, the segmenter, and the room for calls."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from services.common.errors import FailedPrecondition
from services.embedder.admission import Admission
from services.embedder.decode import Decoder
from services.embedder.models.base import Segmenter
from services.embedder.people import People
from services.embedder.queues import SegmenterQueue
from services.embedder.settings import EmbedderSettings

__all__ = ["Shared"]


class Shared:
    """One of each, whatever the number of models, so that limits hold for the process. Lives in one event loop.

    Attributes:
        settings: The embedder's.
        decoder: Pictures to pixels.
        stacking: Where batches are put together. Of its own: a model must not wait for pictures that are being decoded.
        people: Whether they are there; all models and the segmenter make way for them.
        segmenter_name: Empty if none is loaded.
        segmenting: The segmenter's queue, if there is one.
        item_room: Room for texts, images and vectors.
        analysis_room: Room for images that are taken apart.
    """

    def __init__(
        self, settings: EmbedderSettings, segmenter: Segmenter | None, *, item_seconds: Callable[[], float]
    ) -> None:
        """Make them.

        Args:
            settings: The embedder's.
            segmenter: None if there is none.
            item_seconds: How long an item takes in a model now.
        """
        self.settings = settings
        threads = settings.decode_threads or len(os.sched_getaffinity(0))
        self.decoder = Decoder(settings.image_limits, threads=threads, working_px=settings.working_px)
        self.stacking = ThreadPoolExecutor(1, thread_name_prefix="stack")
        self.people = People(rest=settings.bulk_rest)
        self.segmenter_name = segmenter.name if segmenter else ""
        self.segmenting = segmenting = (
            SegmenterQueue(segmenter, self.stacking, bulk_every=settings.bulk_every, people=self.people)
            if segmenter
            else None
        )
        self.item_room = Admission(
            max_items=settings.max_waiting_items, max_bytes=settings.max_waiting_bytes, item_seconds=item_seconds
        )
        self.analysis_room = Admission(
            max_items=settings.max_waiting_analyses,
            max_bytes=settings.max_waiting_bytes,
            item_seconds=(lambda: segmenting.batcher.item_seconds) if segmenting else item_seconds,
        )

    def need_segmenter(self) -> SegmenterQueue:
        """The segmenter's queue; FailedPrecondition if none is loaded."""
        if self.segmenting is None:
            raise FailedPrecondition(
                "no segmenter is loaded; start the embedder with SACCADE_SEGMENTER set", reason="NO_SEGMENTER"
            )
        return self.segmenting

    def close(self) -> None:
        """Decode and stack nothing more; returns at once."""
        self.decoder.close()
        self.stacking.shutdown(wait=False, cancel_futures=True)
