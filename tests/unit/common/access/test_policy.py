"""What every call asks of its caller, spelled out: a call that is new here has to be judged by a person."""

import re
from pathlib import Path
from typing import Final

import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from saccade.embedder.v1 import embedder_service_pb2 as embedder
from saccade.ingest.v1 import ingest_service_pb2 as ingest
from saccade.query.v1 import query_service_pb2 as query
from services.common.access.policy import collections_of, rule_of
from services.common.access.principal import Scope

SERVICES: Final = (
    embedder.DESCRIPTOR.services_by_name["EmbedderService"],
    ingest.DESCRIPTOR.services_by_name["IngestService"],
    query.DESCRIPTOR.services_by_name["QueryService"],
)
METHODS: Final[dict[str, MethodDescriptor]] = {m.name: m for service in SERVICES for m in service.methods}

READ, WRITE, ADMIN = Scope.READ, Scope.WRITE, Scope.ADMIN

# Scope, and a request that names a collection wherever it can.
EXPECTED: Final[dict[str, tuple[Scope, Message]]] = {
    "GetModel": (READ, embedder.GetModelRequest()),
    "EmbedTexts": (READ, embedder.EmbedTextsRequest()),
    "EmbedImages": (READ, embedder.EmbedImagesRequest()),
    "AnalyzeImages": (READ, embedder.AnalyzeImagesRequest()),
    "SegmentAt": (READ, embedder.SegmentAtRequest()),
    "EmbedRegions": (READ, embedder.EmbedRegionsRequest()),
    "ChooseTags": (READ, embedder.ChooseTagsRequest()),
    "CreateImage": (WRITE, ingest.CreateImageRequest(collection="c")),
    "StreamImages": (WRITE, ingest.StreamImagesRequest(create=ingest.CreateImageRequest(collection="c"))),
    "GetImage": (READ, ingest.GetImageRequest(collection="c")),
    "ListImages": (READ, ingest.ListImagesRequest(collection="c")),
    "UpdateImage": (WRITE, ingest.UpdateImageRequest(image={"collection": "c"})),  # type: ignore[arg-type]
    "DeleteImage": (WRITE, ingest.DeleteImageRequest(collection="c")),
    "CreateCollection": (ADMIN, ingest.CreateCollectionRequest(collection=ingest.Collection(name="c"))),
    "GetCollection": (READ, ingest.GetCollectionRequest(name="c")),
    "ListCollections": (READ, ingest.ListCollectionsRequest()),
    "DeleteCollection": (ADMIN, ingest.DeleteCollectionRequest(name="c")),
    "ImportImages": (ADMIN, ingest.ImportImagesRequest(collection="c")),
    "ReindexCollection": (ADMIN, ingest.ReindexCollectionRequest(collection="c")),
    "RetagCollection": (ADMIN, ingest.RetagCollectionRequest(collection="c")),
    "RepairCollection": (ADMIN, ingest.RepairCollectionRequest(collection="c")),
    "GetJob": (READ, ingest.GetJobRequest()),
    "ListJobs": (READ, ingest.ListJobsRequest(collection="c")),
    "CancelJob": (ADMIN, ingest.CancelJobRequest()),
    "PutVocabulary": (WRITE, ingest.PutVocabularyRequest(vocabulary=ingest.Vocabulary(name="v"))),
    "GetVocabulary": (READ, ingest.GetVocabularyRequest(name="v")),
    "Search": (READ, query.SearchRequest(collection="c")),
    "SegmentImage": (READ, query.SegmentImageRequest(collection="c")),
    "ListTags": (READ, query.ListTagsRequest(collection="c")),
    "ProjectImages": (READ, query.ProjectImagesRequest(collection="c")),
}
WITHOUT_COLLECTION: Final = {
    *(method.name for method in SERVICES[0].methods),
    *("ListCollections", "GetJob", "CancelJob", "PutVocabulary", "GetVocabulary"),
}


def test_every_call_of_the_contracts_is_judged_here() -> None:
    assert set(EXPECTED) == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_scope_and_collections_of_a_call(name: str) -> None:
    rule = rule_of(METHODS[name])
    scope, request = EXPECTED[name]
    assert rule.scope == scope
    assert rule.scope is not Scope.NONE
    assert rule.names == (name not in WITHOUT_COLLECTION)
    assert [found for _, found in collections_of(request)] == (["c"] if rule.names else [])


@pytest.mark.parametrize("name", METHODS)
def test_no_field_that_speaks_of_a_collection_is_left_out(name: str) -> None:
    for field in METHODS[name].input_type.fields:
        if "collection" in field.name:
            assert rule_of(METHODS[name]).names


def test_what_all_collections_share_is_changed_by_one_call_only() -> None:
    assert [name for name, method in METHODS.items() if rule_of(method).shared] == ["PutVocabulary"]


def test_paths_say_where_the_name_stands() -> None:
    request = ingest.StreamImagesRequest(create=ingest.CreateImageRequest(collection="a"))
    assert list(collections_of(request)) == [("create.collection", "a")]
    answer = ingest.ListImagesResponse(images=[{"collection": "a"}, {"collection": "b"}])  # type: ignore[list-item]
    assert list(collections_of(answer)) == [("images[0].collection", "a"), ("images[1].collection", "b")]
    assert list(collections_of(ingest.CreateCollectionRequest())) == []


def test_the_documentation_has_the_same_table() -> None:
    text = (Path(__file__).parents[4] / "docs" / "security.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (\w+) \| (.+) \|$", text, re.MULTILINE)
    expected = [
        (method.name, service.full_name.split(".")[1], rule_of(method).scope.name.lower())
        for service in SERVICES
        for method in service.methods
    ]
    assert [row[:3] for row in rows if row[0] in METHODS] == expected
    for name, _, _, collections in (row for row in rows if row[0] in METHODS):
        assert ("those that it names" in collections) == rule_of(METHODS[name]).names
        assert ("`*`" in collections) == rule_of(METHODS[name]).shared
