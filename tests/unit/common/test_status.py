import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from saccade.errors import api_error
from services.common import errors
from services.common.status import STATUS_TABLE, code_of, from_item_error, from_rpc_error, to_item_error, to_status

EXPECTED = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidImage: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Aborted: grpc.StatusCode.ABORTED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Internal: grpc.StatusCode.INTERNAL,
}


@pytest.mark.parametrize(
    ("kind", "code"), EXPECTED.items(), ids=lambda value: value.__name__ if isinstance(value, type) else value.name
)
def test_each_error_has_its_code(kind: type[errors.SaccadeError], code: grpc.StatusCode) -> None:
    assert code_of(kind("why")) == code


def test_no_error_of_the_tree_is_missing_here() -> None:
    assert set(EXPECTED) == {getattr(errors, name) for name in errors.__all__} - {errors.SaccadeError}


@pytest.mark.parametrize(
    ("error", "code"),
    [(TimeoutError(), grpc.StatusCode.DEADLINE_EXCEEDED), (KeyError("secret"), grpc.StatusCode.INTERNAL)],
)
def test_errors_of_others_have_a_code_too(error: Exception, code: grpc.StatusCode) -> None:
    assert code_of(error) == code
    assert STATUS_TABLE[-1][0] is Exception


def test_the_text_of_an_unknown_error_stays_inside() -> None:
    assert "secret" not in to_status(KeyError("secret")).message


def details(status: status_pb2.Status) -> dict[str, object]:
    found: dict[str, object] = {}
    for detail in status.details:
        for message in (error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()):
            if detail.Unpack(message):
                found[type(message).__name__] = message
    return found


def test_a_status_names_reason_field_and_delay() -> None:
    found = details(to_status(errors.Overloaded("full", field="lane", retry_after_s=1.5)))
    info, bad, retry = found["ErrorInfo"], found["BadRequest"], found["RetryInfo"]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == ("OVERLOADED", "saccade")
    assert isinstance(bad, error_details_pb2.BadRequest)
    assert bad.field_violations[0].field == "lane"
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == 1500


def test_an_item_error_comes_back_as_the_same_kind() -> None:
    item = to_item_error(errors.InvalidImage("cut short", reason="IMAGE_TRUNCATED", field="data"), "images[3]")
    assert item.field == "images[3].data"
    back = from_item_error(item)
    assert isinstance(back, errors.InvalidArgument)
    assert (back.reason, back.message, back.field) == ("IMAGE_TRUNCATED", "cut short", "images[3].data")


def test_an_error_put_under_a_field_keeps_its_kind() -> None:
    moved = errors.InvalidImage("cut short", reason="IMAGE_TRUNCATED", field="box").at("parts[0]")
    assert isinstance(moved, errors.InvalidImage)
    assert (moved.field, moved.reason) == ("parts[0].box", "IMAGE_TRUNCATED")


def rpc_error(status: status_pb2.Status, code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details=status.message)


def test_another_services_refusal_passes_through_whole() -> None:
    refused = errors.InvalidArgument("too long", reason="TEXT_TOO_LONG", field="texts[0]")
    back = from_rpc_error(rpc_error(to_status(refused), grpc.StatusCode.INVALID_ARGUMENT), "embedder")
    assert isinstance(back, errors.InvalidArgument)
    assert (back.message, back.reason, back.field) == ("too long", "TEXT_TOO_LONG", "texts[0]")


def test_a_service_that_is_not_there_is_named() -> None:
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details="connect: 10.0.0.7 refused"
    )
    back = from_rpc_error(error, "embedder")
    assert isinstance(back, errors.Unavailable)
    assert "embedder" in back.message
    assert "10.0.0.7" not in back.message


@pytest.mark.parametrize("refused", [errors.Unauthenticated("no such key"), errors.PermissionDenied("not for you")])
def test_our_own_credential_is_no_matter_of_the_callers(refused: errors.SaccadeError) -> None:
    back = from_rpc_error(rpc_error(to_status(refused), code_of(refused)), "embedder")
    assert isinstance(back, errors.Unavailable)
    assert "SACCADE_PEER_KEY" in back.message


def test_a_call_that_was_dropped_may_be_repeated() -> None:
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.CANCELLED, grpc.aio.Metadata(), grpc.aio.Metadata(), details="CANCELLED"
    )
    back = from_rpc_error(error, "embedder")
    assert isinstance(back, errors.Unavailable)
    assert "embedder" in back.message


def test_no_error_of_others_shows_what_it_says() -> None:
    told = "in /srv/app/services/ingest/files.py: password=hunter2"
    for kind in (Exception, KeyError, ValueError, OSError, RuntimeError, MemoryError, RecursionError, TimeoutError):
        for made in (
            to_status(kind(told)).SerializeToString(),
            to_item_error(kind(told), "images[0]").SerializeToString(),
        ):
            assert b"hunter2" not in made
            assert b"services/" not in made


def test_a_wrapped_error_does_not_show_its_cause() -> None:
    try:
        try:
            raise OSError("/srv/app/secret")
        except OSError as exc:
            raise errors.Internal("the image can not be read") from exc
    except errors.Internal as outer:
        assert b"secret" not in to_status(outer).SerializeToString()


def test_a_caller_sees_reason_fields_and_delay() -> None:
    overloaded = errors.Overloaded("full", field="lane", retry_after_s=2)
    told = api_error(rpc_error(to_status(overloaded), grpc.StatusCode.RESOURCE_EXHAUSTED))
    assert told.reason == "OVERLOADED"
    assert told.retry_after_s == 2
    assert str(told) == "RESOURCE_EXHAUSTED: lane: full"
