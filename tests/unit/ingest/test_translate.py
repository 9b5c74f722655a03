from typing import Any

import pytest
from google.protobuf import field_mask_pb2

from saccade.common.v1 import types_pb2
from saccade.ingest.v1 import ingest_service_pb2 as pb
from services.common.errors import InvalidArgument
from services.common.records import ImageState
from services.ingest.translate import changes, new_collection, wait_for


def update(*paths: str, **fields: Any) -> pb.UpdateImageRequest:
    mask = field_mask_pb2.FieldMask(paths=paths)
    return pb.UpdateImageRequest(image=types_pb2.Image(collection="c", id="a", **fields), update_mask=mask)


def test_how_far_to_wait() -> None:
    assert wait_for(types_pb2.IMAGE_STATE_UNSPECIFIED) is ImageState.SEARCHABLE
    assert wait_for(types_pb2.IMAGE_STATE_SEGMENTED) is ImageState.SEGMENTED
    for state in (types_pb2.IMAGE_STATE_FAILED, 99):
        with pytest.raises(InvalidArgument) as caught:
            wait_for(state)
        assert caught.value.field == "wait_for"


def test_a_mask_says_what_changes() -> None:
    found = changes(update("title", "tags", title="", metadata={}))
    assert (found.title, found.metadata, found.user_tags) == ("", None, ())


def test_without_a_mask_what_is_set_changes() -> None:
    request = update(title="new")
    assert changes(request).title == "new"
    assert changes(request).metadata is None
    request.image.metadata.update({"a": 1})
    assert changes(request).metadata == {"a": 1}


def test_the_models_tags_do_not_become_a_persons() -> None:
    tags = [
        types_pb2.Tag(name="mine", confidence=1),
        types_pb2.Tag(name="new"),
        types_pb2.Tag(name="model", category="x", confidence=0.7),
    ]
    found = changes(update("tags", tags=tags))
    assert (found.user_tags, found.confidences) == (("mine", "new"), {"mine": 1, "new": 0})


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (update(), "update_mask"),
        (update("title", "id"), "update_mask.paths[1]"),
        (update("metadata.a"), "update_mask.paths[0]"),
        (update("title", title="x" * 2_001), "image.title"),
        (update("tags", tags=[types_pb2.Tag(name="")]), "image.tags[0]"),
    ],
)
def test_bad_updates(request_: pb.UpdateImageRequest, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        changes(request_)
    assert caught.value.field == field


def test_an_index_by_default() -> None:
    index = new_collection(pb.Collection(name="c")).index
    assert (index.type, index.metric, index.target_recall) == ("IVF_FLAT", "COSINE", 0.95)
    given = pb.IndexSpec(type=pb.INDEX_TYPE_IVF_FLAT, metric=pb.METRIC_COSINE, target_recall=0.9, nlist=8, nprobe=2)
    index = new_collection(pb.Collection(name="c", index=given)).index
    assert (index.target_recall, index.nlist, index.nprobe) == (0.9, 8, 2)
    index = new_collection(
        pb.Collection(name="c", index=pb.IndexSpec(type=pb.INDEX_TYPE_HNSW, metric=pb.METRIC_IP))
    ).index
    assert (index.type, index.metric) == ("HNSW", "IP")


@pytest.mark.parametrize(
    ("index", "field"),
    [
        (pb.IndexSpec(type=99), "collection.index.type"),  # type: ignore[arg-type]
        (pb.IndexSpec(metric=99), "collection.index.metric"),  # type: ignore[arg-type]
        (pb.IndexSpec(target_recall=1.5), "collection.index.target_recall"),
        (pb.IndexSpec(target_recall=-1), "collection.index.target_recall"),
        (pb.IndexSpec(target_recall=float("nan")), "collection.index.target_recall"),
        (pb.IndexSpec(nlist=65_537), "collection.index.nlist"),
        (pb.IndexSpec(nprobe=65_537), "collection.index.nprobe"),
    ],
)
def test_indexes_that_can_not_be(index: pb.IndexSpec, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        new_collection(pb.Collection(name="c", index=index))
    assert caught.value.field == field
