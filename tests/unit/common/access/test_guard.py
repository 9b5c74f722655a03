import pytest

from saccade.ingest.v1 import ingest_service_pb2 as pb
from services.common.access.guard import acting, authorize, cut, require
from services.common.access.principal import Principal, Scope
from services.common.errors import PermissionDenied
from tests.unit.common.access.test_policy import METHODS

BIRDS = Principal(name="b", kind="key", scope=Scope.ADMIN, collections=("birds", "team_*"))
ALL = Principal(name="a", kind="key", scope=Scope.ADMIN, collections=("*",))


def test_a_refusal_names_field_and_reason_and_not_what_exists() -> None:
    with pytest.raises(PermissionDenied) as caught:
        authorize(BIRDS, METHODS["UpdateImage"], pb.UpdateImageRequest(image={"collection": "cats"}))  # type: ignore[arg-type]
    assert (caught.value.field, caught.value.reason) == ("image.collection", "COLLECTION_DENIED")
    with pytest.raises(PermissionDenied) as caught:
        reader = Principal(name="r", kind="key", scope=Scope.READ, collections=("*",))
        authorize(reader, METHODS["DeleteImage"], pb.DeleteImageRequest(collection="birds"))
    assert caught.value.reason == "SCOPE_TOO_SMALL"


def test_a_change_that_names_no_collection_is_for_those_who_are_bound_to_none() -> None:
    authorize(ALL, METHODS["CreateImage"], pb.CreateImageRequest())
    for name, request in (
        ("CreateImage", pb.CreateImageRequest()),
        ("CreateCollection", pb.CreateCollectionRequest()),
        ("UpdateImage", pb.UpdateImageRequest()),
        ("StreamImages", pb.StreamImagesRequest()),
    ):
        with pytest.raises(PermissionDenied):
            authorize(BIRDS, METHODS[name], request)
    with pytest.raises(PermissionDenied):
        authorize(BIRDS, METHODS["PutVocabulary"], pb.PutVocabularyRequest())


def test_lists_show_what_the_caller_may_see() -> None:
    answer = pb.ListCollectionsResponse(
        collections=[pb.Collection(name=name) for name in ("birds", "cats", "team_x")], next_page_token="t"
    )
    seen = cut(BIRDS, METHODS["ListCollections"], answer)
    assert [each.name for each in seen.collections] == ["birds", "team_x"]
    assert seen.next_page_token == "t"
    assert len(answer.collections) == 3, "the answer itself may be shared"
    assert cut(BIRDS, METHODS["ListCollections"], seen) is seen
    assert cut(ALL, METHODS["ListCollections"], answer) is answer
    jobs = pb.ListJobsResponse(jobs=[pb.Job(id="1", collection="cats"), pb.Job(id="2", collection="birds")])
    assert [job.id for job in cut(BIRDS, METHODS["ListJobs"], jobs).jobs] == ["2"]


def test_one_thing_of_others_is_refused() -> None:
    mine, others = (pb.GetJobResponse(job=pb.Job(collection=name)) for name in ("birds", "cats"))
    assert cut(BIRDS, METHODS["GetJob"], mine) == mine
    with pytest.raises(PermissionDenied):
        cut(BIRDS, METHODS["GetJob"], others)


def test_a_service_can_ask_about_a_collection_that_no_request_names() -> None:
    require(Scope.ADMIN, "cats", "id")
    with acting(BIRDS):
        require(Scope.ADMIN, "birds", "id")
        with pytest.raises(PermissionDenied):
            require(Scope.ADMIN, "cats", "id")
    require(Scope.ADMIN, "cats", "id")
