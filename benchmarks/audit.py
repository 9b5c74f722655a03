"""Whether a collection holds what was promised and nothing twice, read back in every way that callers can."""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import grpc
import httpx

from benchmarks.load import Kept, Ledger, patiently
from saccade import ApiError, Client, filters
from saccade.ingest.v1 import ingest_service_pb2 as ingest
from services.common.settings import VectorSettings
from services.common.vectors import Consistency, Generation, VectorStore

__all__ = ["Audit", "audit", "doctor", "settle"]

READERS: Final = 8
BATCH: Final = 100
PATIENCE_S: Final = 30.0
POLL_S: Final = 0.5
JOB_S: Final = 300.0


@dataclass
class Audit:
    """What is wrong, a sentence for each; nothing where all is as promised.

    Attributes:
        lost: By id, images that were acknowledged and can not be read, found or fetched as they were.
        twice: By id, images with more rows, results or segments than they should have.
        returned: Ids that are there again though their removal was acknowledged.
    """

    lost: dict[str, str] = field(default_factory=dict)
    twice: dict[str, str] = field(default_factory=dict)
    returned: set[str] = field(default_factory=set)


def doctor(client: Client, collection: str) -> dict[str, int]:
    """What RepairCollection would mend, by kind; it changes nothing. ApiError where the job can not be run."""
    job = client.repair_collection(collection, dry_run=True)
    end = time.monotonic() + JOB_S
    while job.state == ingest.Job.STATE_RUNNING:
        if time.monotonic() > end:
            raise ApiError(grpc.StatusCode.DEADLINE_EXCEEDED, f"the repair did not end in {JOB_S:g} s")
        time.sleep(POLL_S)
        job = client.get_job(job.id)
    if job.state != ingest.Job.STATE_SUCCEEDED:
        raise ApiError(grpc.StatusCode.UNAVAILABLE, f"the repair ended badly: {job.failure}")
    return {finding.kind: finding.found for finding in job.findings if finding.found}


def settle(client: Client, collection: str, *, since: float, limit_s: float) -> tuple[float | None, str]:
    """Wait until nothing is pending and the doctor finds nothing.

    Args:
        client: Whom to ask.
        collection: Its name.
        since: When the wait began, by time.monotonic.
        limit_s: How long it may take from then on.

    Returns:
        Seconds since `since`, None where it took too long; and what was still wrong at the last look.
    """
    wrong = ""
    while time.monotonic() - since < limit_s:
        try:
            pending = client.get_collection(collection).pending_count
            found = {} if pending else doctor(client, collection)
        except ApiError as exc:
            wrong = str(exc)
        else:
            if not pending and not found:
                return time.monotonic() - since, ""
            wrong = f"{pending} images are pending" if pending else f"the doctor finds {found}"
        time.sleep(POLL_S)
    return None, wrong


def audit(client: Client, settings: VectorSettings, collection: str, ledger: Ledger) -> Audit:
    """Compare what a settled collection holds with what callers were promised."""
    report = Audit()
    kept = ledger.kept
    segments = _read_back(client, collection, kept, report)
    found = _found(client, collection, sorted(kept))
    listed = Counter(image.id for image in client.list_images(collection, page_size=1000))
    for image_id in kept:
        for seen, how in ((found, "search finds"), (listed, "list shows")):
            if not seen[image_id]:
                report.lost.setdefault(image_id, f"no {how} it")
            elif seen[image_id] > 1:
                report.twice.setdefault(image_id, f"a {how} it {seen[image_id]} times")
    gone = sorted(ledger.removed)
    report.returned = {*(image_id for image_id in gone if listed[image_id]), *_found(client, collection, gone)}
    asyncio.run(_compare_rows(client, settings, collection, segments, report))
    return report


def _read_back(client: Client, collection: str, kept: Mapping[str, Kept], report: Audit) -> dict[str, int]:
    """Read each record and its original, note those that are not as promised; how many segments each record has."""
    with httpx.Client(timeout=PATIENCE_S) as web, ThreadPoolExecutor(READERS) as pool:

        def read(image_id: str) -> tuple[str, str, int]:
            try:
                image = patiently(lambda: client.get_image(collection, image_id), patience_s=PATIENCE_S)
                original = web.get(image.original_url)
            except (ApiError, httpx.HTTPError) as exc:
                return image_id, str(exc) or type(exc).__name__, -1
            wrong = _difference(kept[image_id], image.sha256, image.title, original)
            return image_id, wrong, len(image.segments)

        answers = list(pool.map(read, kept))
    report.lost |= {image_id: wrong for image_id, wrong, _ in answers if wrong}
    return {image_id: count for image_id, _, count in answers if count >= 0}


def _difference(kept: Kept, sha256: str, title: str, original: httpx.Response) -> str:
    if original.status_code != httpx.codes.OK:
        return f"its original answers {original.status_code}"
    if hashlib.sha256(original.content).hexdigest() != kept.sha256:
        return "its original has other bytes"
    if sha256 != kept.sha256:
        return "its record is of other bytes"
    return "" if title == kept.title else f"its title is {title!r}, and {kept.title!r} was acknowledged"


def _found(client: Client, collection: str, ids: Sequence[str]) -> Counter[str]:
    """How often searches for whole images return each, all of them compared."""
    seen: Counter[str] = Counter()
    for some in _batches(ids):

        def ask(names: Sequence[str] = some) -> list[str]:
            answer = client.search(
                collection,
                text="red",
                literal_text=True,
                mode="whole",
                filter=filters.ids(*names),
                top_k=BATCH,
                exact=True,
                consistency="strong",
            )
            return [result.image.id for result in answer.results]

        seen.update(patiently(ask, patience_s=PATIENCE_S))
    return seen


async def _compare_rows(
    client: Client, settings: VectorSettings, collection: str, segments: Mapping[str, int], report: Audit
) -> None:
    """Look past the services: rows for each image and segment in Milvus itself."""
    told = client.get_collection(collection)
    dimension = client.get_model(told.model).dimension
    generation = Generation(collection, told.generation, dimension, told.fingerprint)
    store = VectorStore(settings)
    try:
        images = await _all_ids(store, generation)
        count = await store.count_images(generation)
        if count != len(images):
            report.twice["(images)"] = f"{count} rows for {len(images)} images"
        rows = 0
        for some in _batches(sorted(images)):
            standing = await store.get_segment_vectors(generation, some, consistency=Consistency.STRONG)
            for image_id in some:
                indices = [segment.index for segment in standing.get(image_id, [])]
                rows += len(indices)
                expected = segments.get(image_id, len(indices))
                if len(set(indices)) != len(indices) or len(indices) > expected:
                    report.twice[image_id] = f"segment rows {indices}, and its record has {expected}"
                elif len(indices) < expected:
                    report.lost.setdefault(image_id, f"{len(indices)} of {expected} segments have rows")
        count = await store.count_segments(generation)
        if count != rows:
            report.twice["(segments)"] = f"{count} rows for {rows} segments of images that stand"
    finally:
        await store.close()


async def _all_ids(store: VectorStore, generation: Generation) -> set[str]:
    ids: set[str] = set()
    after = ""
    while page := await store.list_image_ids(generation, where="", start_after=after, limit=1_000):
        ids.update(page)
        after = page[-1]
    return ids


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))
