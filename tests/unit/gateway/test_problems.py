import grpc
import pytest

from services.common.errors import FailedPrecondition, Overloaded
from services.gateway.problems import HTTP_TABLE, Problem, problem_of, respond

from .conftest import Gateway

ROWS = [
    (grpc.StatusCode.OK, 200),
    (grpc.StatusCode.CANCELLED, 499),
    (grpc.StatusCode.UNKNOWN, 500),
    (grpc.StatusCode.INVALID_ARGUMENT, 400),
    (grpc.StatusCode.DEADLINE_EXCEEDED, 504),
    (grpc.StatusCode.NOT_FOUND, 404),
    (grpc.StatusCode.ALREADY_EXISTS, 409),
    (grpc.StatusCode.PERMISSION_DENIED, 403),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
    (grpc.StatusCode.FAILED_PRECONDITION, 409),
    (grpc.StatusCode.ABORTED, 409),
    (grpc.StatusCode.OUT_OF_RANGE, 400),
    (grpc.StatusCode.UNIMPLEMENTED, 501),
    (grpc.StatusCode.INTERNAL, 500),
    (grpc.StatusCode.UNAVAILABLE, 503),
    (grpc.StatusCode.DATA_LOSS, 500),
    (grpc.StatusCode.UNAUTHENTICATED, 401),
]


@pytest.mark.parametrize(("code", "status"), ROWS)
def test_each_code_has_its_http_status(code: grpc.StatusCode, status: int) -> None:
    assert HTTP_TABLE[code] == status


def test_no_code_is_left_out() -> None:
    assert set(HTTP_TABLE) == set(grpc.StatusCode)
    assert {code for code, _ in ROWS} == set(HTTP_TABLE)


async def test_an_error_of_ours_keeps_reason_field_and_sentence(gateway: Gateway) -> None:
    gateway.recorder.answers["GetModel"] = FailedPrecondition("no text tower", reason="NO_TEXT", field="model")
    response = await gateway.http.get("/v1/model")
    assert response.status_code == 409
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert len(problem.pop("trace_id")) in (0, 32) if "trace_id" in problem else True
    assert problem.pop("request_id") == response.headers["x-request-id"]
    assert problem == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "detail": "no text tower",
        "reason": "NO_TEXT",
        "field": "model",
        "errors": [{"field": "model", "detail": "no text tower"}],
    }


async def test_overload_says_when_to_come_back(gateway: Gateway) -> None:
    gateway.recorder.answers["GetModel"] = Overloaded("too much to do", retry_after_s=2.4)
    response = await gateway.http.get("/v1/model")
    assert response.status_code == 429
    assert response.headers["retry-after"] == "3"
    assert response.json()["retry_after"] == 3


def test_unavailability_always_advises_a_wait() -> None:
    assert respond(Problem(503, "UNAVAILABLE", "gone")).headers["retry-after"] == "1"


async def test_an_error_of_no_kind_tells_nothing(gateway: Gateway) -> None:
    gateway.recorder.answers["GetModel"] = KeyError("secret")
    response = await gateway.http.get("/v1/model")
    assert response.status_code == 500
    assert "secret" not in response.text
    assert problem_of(KeyError("secret")).status == 500


async def test_wrong_addresses_and_methods_have_the_same_form(gateway: Gateway) -> None:
    missing, wrong = await gateway.http.get("/v2/model"), await gateway.http.delete("/v1/model")
    assert (missing.status_code, missing.json()["reason"]) == (404, "NO_SUCH_ADDRESS")
    assert (wrong.status_code, wrong.json()["reason"]) == (405, "METHOD_NOT_ALLOWED")
    assert wrong.headers["allow"] == "GET"
    assert {answer.headers["content-type"] for answer in (missing, wrong)} == {"application/problem+json"}
