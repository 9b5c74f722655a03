"""SIGKILL of the ingest service in the middle of a load: what was acknowledged is searchable, and nothing is twice."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from saccade import Client, filters
from services.stack import gallery
from services.stack.processes import wait_until
from services.stack.settings import StackSettings
from services.stack.stack import Stack, temporary_stack

COUNT: Final = 400
KILL_AFTER: Final = 120


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    # Toy models: what is tested here is what is kept, not what is seen.
    with temporary_stack(os.environ, model="toy", data=tmp_path) as running:
        yield running


def seen_by_searches(client: Client, ids: list[str]) -> Counter[str]:
    """How often whole-image searches return each image, all of them compared."""
    seen: Counter[str] = Counter()
    for start in range(0, len(ids), 100):
        some = ids[start : start + 100]
        answer = client.search(
            "mine", text="red", mode="whole", filter=filters.ids(*some), top_k=100, exact=True, consistency="strong"
        )
        seen.update(result.image.id for result in answer.results)
    return seen


@pytest.mark.timeout(300)
def test_nothing_acknowledged_is_lost_and_nothing_is_twice(stack: Stack) -> None:
    labels = gallery.gallery_labels(StackSettings().demo_dir, COUNT)
    assert len(labels) == COUNT
    acknowledged: list[str] = []
    with stack.client() as client:
        client.create_collection("mine")
        # DURABLE results come long before the image is indexed: at the kill there is much that is only promised.
        results = client.stream_images(
            (label.to_image() for label in labels), collection="mine", wait_for="durable", max_in_flight=16
        )
        for result in results:
            assert result.image, result.error
            acknowledged.append(result.image.id)
            if len(acknowledged) == KILL_AFTER:
                stack.processes["ingest"].restart()
        assert sorted(acknowledged) == sorted(label.id for label in labels)

        assert wait_until(lambda: client.get_collection("mine").pending_count == 0, timeout_s=150)
        assert seen_by_searches(client, acknowledged) == Counter(acknowledged)
        assert Counter(image.id for image in client.list_images("mine")) == Counter(acknowledged)
        collection = client.get_collection("mine")
        assert collection.image_count == COUNT
        assert collection.pending_count == 0


@pytest.mark.timeout(300)
def test_an_upload_that_was_given_up_goes_on_where_it_was(stack: Stack) -> None:
    """Without a service to come back to, the load ends with an error; the same images again are not stored again."""
    labels = gallery.gallery_labels(StackSettings().demo_dir, 60)
    with stack.client() as client:
        client.create_collection("mine")
        first = client.stream_images(
            (label.to_image() for label in labels), collection="mine", wait_for="durable", max_in_flight=4, give_up_s=1
        )
        stored = [next(first).item.id for _ in range(20)]
        stack.processes["ingest"].kill()
        with pytest.raises(Exception, match="UNAVAILABLE"):
            stored += [result.item.id for result in first]
        stack.processes["ingest"].start()

        results = {
            result.item.id: result
            for result in client.stream_images((label.to_image() for label in labels), collection="mine")
        }
        assert len(results) == len(labels)
        assert all(results[image_id].existed for image_id in stored)
        assert wait_until(lambda: client.get_collection("mine").pending_count == 0, timeout_s=60)
        assert seen_by_searches(client, list(results)) == Counter(list(results))
