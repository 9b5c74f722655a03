"""Models compared on labelled images through the running services: how fast they are, and how well they find.

For each model a collection of its own is made, filled, asked and removed. Nothing but pictures is stored there, no
titles and no tags that people gave, so that what differs is the models. Everything is asked in the mode given, with the
weights that callers have who give none:

- by stored image: each image as the query, itself left out; images that share a named object are relevant. Mean
  average precision over the first 10.
- by region: a labelled box of a stored image, that image left out; images that show an object of the same name are
  relevant. Mean average precision over the first 10.
- by text: the caption, or where there is none the names of the objects, taken as written; share of texts that have an
  image with that text first, or among the first 10.
"""

import statistics
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, TypeVar

from saccade import filters
from saccade.client import Client
from saccade.embedder.v1 import embedder_service_pb2 as embedder
from saccade.errors import ApiError
from saccade.labels import Label
from saccade.requests import Box, Mode, make_region

__all__ = ["Comparison", "ComparisonError", "ModelReport", "average_precision_at_10"]

STALL_S: Final = 300.0
"""Segmenting that makes no progress for so long ends the comparison."""
POLL_S: Final = 0.2
K: Final = 10
LATENCY_QUERIES: Final = 50
"""Most searches that are timed, one after the other."""
AT_ONCE: Final = 4
"""Searches under way at a time where they are not timed."""

T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[str, int, int], None]
"""Gets what is being done, how much of it is done, and how much there is."""


class ComparisonError(Exception):
    """The images could not be stored or segmented; says why."""


@dataclass(frozen=True)
class ModelReport:
    """What one model did; None where it can not be measured with it.

    Attributes:
        model: Its name.
        dimension: Length of its vectors.
        images: How many were stored.
        failed: How many could not be.
        searchable_per_s: Images stored and searchable, a second; segmenting goes on beside it.
        segmented_per_s: Images stored with all their segments, a second; None without a segmenter.
        search_p50_ms: Half of the searches by an uploaded picture took no longer; whole mode, one after the other.
        image_map_at_10: By stored image; None where no images share an object.
        region_map_at_10: By region; None without a segmenter, or where no images share an object.
        text_recall_at_1: By text; None without a text tower or texts.
        text_recall_at_10: Likewise.
    """

    model: str
    dimension: int
    images: int
    failed: int
    searchable_per_s: float
    segmented_per_s: float | None
    search_p50_ms: float
    image_map_at_10: float | None
    region_map_at_10: float | None
    text_recall_at_1: float | None
    text_recall_at_10: float | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Comparison:
    """Labelled images and what to ask of them; each model is asked the same."""

    def __init__(
        self,
        client: Client,
        labels: Sequence[Label],
        *,
        mode: Mode = "hybrid",
        max_queries: int = 200,
        progress: Progress = lambda _what, _done, _total: None,
        warn: Callable[[str], None] = lambda _sentence: None,
    ) -> None:
        """Prepare one.

        Args:
            client: Of the services.
            labels: The images.
            mode: How to search.
            max_queries: Most queries of each kind; where there are more, so many of them, evenly spread.
            progress: Called again and again.
            warn: Gets sentences about what is left behind.
        """
        self._client = client
        # Ids of their own: those in the labels need not be unique, nor fit.
        self._labels = {str(number): label for number, label in enumerate(labels)}
        self._mode: Mode = mode
        self._max_queries = max_queries
        self._progress = progress
        self._warn = warn

    def run(self, model: str) -> ModelReport:
        """Measure one model; its collection is gone afterwards, whatever happens.

        Raises:
            ApiError: a service refused something, or there is no such model.
            ComparisonError: the images could not be stored.
        """
        info = self._client.get_model(model)
        collection = f"compare_{uuid.uuid4().hex[:12]}"
        self._client.create_collection(collection, description="Temporary, of `saccade compare`", model=info.model)
        try:
            return self._measure(info, collection)
        finally:
            try:
                self._client.delete_collection(collection, force=True)
            except ApiError as exc:
                # What went wrong before, if anything did, is what the caller needs to hear.
                self._warn(f"the temporary collection {collection} could not be removed: {exc}")

    def _measure(self, info: embedder.GetModelResponse, collection: str) -> ModelReport:
        started = time.monotonic()
        stored = self._store(collection)
        searchable_s = time.monotonic() - started
        segmented_s = self._wait_for_segments(collection, started) if info.segmenter else None
        # What comes after must see all of it, and find the collection loaded.
        some = next(iter(stored.values())).path
        self._client.search(collection, image=some, mode="whole", consistency="strong")
        recalls = self._texts(collection, stored) if info.has_text else None
        return ModelReport(
            model=info.model,
            dimension=info.dimension,
            images=len(stored),
            failed=len(self._labels) - len(stored),
            searchable_per_s=len(stored) / searchable_s,
            segmented_per_s=None if segmented_s is None else len(stored) / segmented_s,
            search_p50_ms=self._latency(collection, stored),
            image_map_at_10=self._images(collection, stored),
            region_map_at_10=self._regions(collection, stored) if info.segmenter else None,
            text_recall_at_1=recalls[0] if recalls else None,
            text_recall_at_10=recalls[1] if recalls else None,
        )

    def _store(self, collection: str) -> dict[str, Label]:
        """Those that are searchable, by id."""
        images = (replace(label.to_image(), id=id, title="", metadata={}) for id, label in self._labels.items())
        stored: dict[str, Label] = {}
        errors: list[str] = []
        for result in self._client.stream_images(images, collection=collection, wait_for="searchable"):
            if result.error:
                errors.append(f"{result.item.source}: {result.error}")
            else:
                stored[result.item.id] = self._labels[result.item.id]
            self._progress("storing", len(stored) + len(errors), len(self._labels))
        if not stored:
            raise ComparisonError(f"no image could be stored; {errors[0]}")
        return stored

    def _wait_for_segments(self, collection: str, started: float) -> float:
        """Seconds from `started` until every image is segmented."""
        total, least, last_progress = len(self._labels), len(self._labels) + 1, time.monotonic()
        while pending := self._client.get_collection(collection).pending_count:
            now = time.monotonic()
            if pending < least:
                least, last_progress = pending, now
            elif now - last_progress > STALL_S:
                raise ComparisonError(f"{pending} images are not segmented, and none was in {STALL_S:g} s")
            self._progress("segmenting", max(0, total - pending), total)
            time.sleep(POLL_S)
        return time.monotonic() - started

    def _latency(self, collection: str, stored: dict[str, Label]) -> float:
        seconds = []
        asked = _spread([label.path for label in stored.values()], min(LATENCY_QUERIES, self._max_queries))
        for done, path in enumerate(asked, start=1):
            # The file is read before the clock starts.
            picture = path.read_bytes()
            started = time.perf_counter()
            self._client.search(collection, image=picture, mode="whole")
            seconds.append(time.perf_counter() - started)
            self._progress("timing searches", done, len(asked))
        return statistics.median(seconds) * 1000

    def _images(self, collection: str, stored: dict[str, Label]) -> float | None:
        holding = _holding(stored)
        queries = [
            (id, relevant)
            for id, label in stored.items()
            if (relevant := set[str]().union(*(holding[name] for name in label.names)) - {id})
        ]

        def ask(query: tuple[str, set[str]]) -> float:
            id, relevant = query
            answer = self._client.search(collection, like=id, mode=self._mode, top_k=K)
            return average_precision_at_10([result.image.id for result in answer.results], relevant)

        return _mean(self._each("by image", queries, ask))

    def _regions(self, collection: str, stored: dict[str, Label]) -> float | None:
        holding = _holding(stored)
        queries = [
            (id, labelled.box, relevant)
            for id, label in stored.items()
            for labelled in label.objects
            if (relevant := holding[labelled.name] - {id})
        ]

        def ask(query: tuple[str, Box, set[str]]) -> float:
            id, box, relevant = query
            answer = self._client.search(
                collection,
                region=make_region(like=id, box=box),
                mode=self._mode,
                filter=filters.negated(filters.ids(id)),
                top_k=K,
            )
            return average_precision_at_10([result.image.id for result in answer.results], relevant)

        return _mean(self._each("by region", queries, ask))

    def _texts(self, collection: str, stored: dict[str, Label]) -> tuple[float, float] | None:
        wanted: dict[str, set[str]] = {}
        for id, label in stored.items():
            if text := label.caption or ", ".join(sorted(label.names)):
                wanted.setdefault(text, set()).add(id)

        def ask(query: tuple[str, set[str]]) -> tuple[bool, bool]:
            text, right = query
            answer = self._client.search(collection, text=text, literal_text=True, mode=self._mode, top_k=K)
            found = [result.image.id for result in answer.results]
            return not right.isdisjoint(found[:1]), not right.isdisjoint(found[:K])

        hits = self._each("by text", list(wanted.items()), ask)
        if not hits:
            return None
        return sum(one for one, _ in hits) / len(hits), sum(ten for _, ten in hits) / len(hits)

    def _each(self, what: str, queries: Sequence[T], ask: Callable[[T], R]) -> list[R]:
        asked = _spread(queries, self._max_queries)
        answers: list[R] = []
        with ThreadPoolExecutor(AT_ONCE) as pool:
            waiting = [pool.submit(ask, query) for query in asked]
            try:
                for future in waiting:
                    answers.append(future.result())
                    self._progress(what, len(answers), len(asked))
            finally:
                for future in waiting:
                    future.cancel()
        return answers


def average_precision_at_10(found: Sequence[str], relevant: Collection[str]) -> float:
    """Mean of the precision at each relevant one among the first 10, out of as many as 10 can hold.

    `relevant` must not be empty.
    """
    right, total = 0, 0.0
    for place, id in enumerate(found[:K], start=1):
        if id in relevant:
            right += 1
            total += right / place
    return total / min(K, len(relevant))


def _holding(stored: dict[str, Label]) -> dict[str, set[str]]:
    """Name of an object -> ids of the images that show one."""
    holding: dict[str, set[str]] = {}
    for id, label in stored.items():
        for name in label.names:
            holding.setdefault(name, set()).add(id)
    return holding


def _spread(items: Sequence[T], most: int) -> list[T]:
    """All, or `most` of them at even distances."""
    if len(items) <= most:
        return list(items)
    return [items[number * len(items) // most] for number in range(most)]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
