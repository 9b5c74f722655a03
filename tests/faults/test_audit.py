"""The proofs are worth what their eyes are worth: damage that is done behind everybody's back is seen."""

import asyncio
import dataclasses
import hashlib
import time
from collections.abc import Iterator

import pytest

from benchmarks.audit import audit, doctor, settle
from benchmarks.cluster import Cluster
from benchmarks.load import Kept, Ledger, picture
from saccade import Client, NewImage
from services.common.objects import open_object_store
from services.common.records import original_key
from services.common.vectors import Generation, VectorStore
from tests.faults.support import PATIENCE_S, Callers

COLLECTION = "audited"


@pytest.fixture
def ledger(callers: Callers) -> Iterator[Ledger]:
    """Five images that are promised, and kept so far."""
    client, made = callers.client, Ledger()
    client.create_collection(COLLECTION)
    for number, image_id in enumerate("abcde"):
        data = picture(1_000_000 + number)
        client.with_timeout(60).create_image(
            COLLECTION, NewImage(data, id=image_id, title=image_id), wait_for="segmented"
        )
        made.promise(image_id, Kept(hashlib.sha256(data).hexdigest(), image_id))
    yield made
    client.delete_collection(COLLECTION, force=True)


def generation_of(client: Client) -> Generation:
    told = client.get_collection(COLLECTION)
    return Generation(COLLECTION, told.generation, client.get_model().dimension, told.fingerprint)


async def damage(cluster: Cluster, generation: Generation) -> None:
    objects, vectors = open_object_store(cluster.object_settings()), VectorStore(cluster.vector_settings())
    try:
        await objects.delete(original_key(COLLECTION, "a"))
        await vectors.delete_images(generation, ["b"])
        [first, *_] = await vectors.get_segments(generation, "c")
        await vectors.upsert_segments(generation, [dataclasses.replace(first, index=40)])
    finally:
        await objects.close()
        await vectors.close()


def test_damage_is_seen(callers: Callers, cluster: Cluster, ledger: Ledger) -> None:
    client, settings = callers.client, cluster.vector_settings()
    settled_s, wrong = settle(client, COLLECTION, limit_s=PATIENCE_S, since=time.monotonic())
    assert settled_s is not None, wrong
    whole = audit(client, settings, COLLECTION, ledger)
    assert (whole.lost, whole.twice, whole.returned) == ({}, {}, set())

    asyncio.run(damage(cluster, generation_of(client)))
    ledger.promise("d", dataclasses.replace(ledger.kept["d"], title="another one"))
    ledger.remove("e")
    ledger.promise("never", Kept("0" * 64, "never stored"))
    report = audit(client, settings, COLLECTION, ledger)
    assert set(report.lost) == {"a", "b", "d", "never"}
    assert set(report.twice) == {"c"}
    assert report.returned == {"e"}
    assert {"ORIGINAL_MISSING", "ROWS_MISSING", "ROWS_ORPHANED"} <= set(doctor(client, COLLECTION))
