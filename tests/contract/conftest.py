"""One stack with the toy models for all tests of the contracts, and a collection `shapes` with a few pictures."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import grpc
import httpx
import pytest

from saccade import ApiError, Client, NewImage
from saccade.calls import Call
from services.stack.stack import Stack, temporary_stack
from tests.contract.pictures import good

COLLECTION: Final = "shapes"
# A refusal does no work; what takes time is to send 60 MB on a machine that does other things too.
DEADLINE_S: Final = 60.0

# In every string of a filter: quotes, backslashes, newlines, and Milvus's own syntax.
NASTY: Final = (
    'it\'s "x" \\ \\\' \\" %_ \n\t or 1 == 1) || id != \'\' && array_contains(tags, "a") {x} $meta["a"] \u2028é'
)

# Tags hold nothing invisible.
NASTY_TAG: Final = NASTY.replace("\n", "").replace("\t", "").replace("\u2028", "")[:64]


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    with temporary_stack(os.environ, model="toy") as running:
        with running.client() as client:
            client.create_collection(COLLECTION)
            images = [
                NewImage(good("red", "yellow"), id="red", tags=["plain"], metadata={"note": "plain", "n": 1}),
                NewImage(good("blue", "white"), id="blue", tags=["plain"], metadata={"note": "plain", "n": 2}),
                NewImage(good("green", "black"), id="nasty", tags=[NASTY_TAG], metadata={"note": NASTY, NASTY: "x"}),
            ]
            for image in images:
                client.create_image(COLLECTION, image, wait_for="segmented")
        yield running


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with stack.client(timeout_s=DEADLINE_S) as client:
        yield client


@pytest.fixture
def http(stack: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.gateway_url, timeout=DEADLINE_S) as http:
        yield http


@dataclass(frozen=True)
class Refusal:
    """How a call was refused, whichever way it was made."""

    code: grpc.StatusCode
    reason: str
    field: str
    message: str


def refused(client: Client, call: Call[Any]) -> Refusal:
    """Make a call that must be refused, within its deadline."""
    return refused_by(lambda: client.call(call))


def refused_by(act: Callable[[], Any]) -> Refusal:
    """Do something that must be refused, within its deadline."""
    with pytest.raises(ApiError) as caught:
        act()
    error = caught.value
    assert error.message
    return Refusal(error.code, error.reason, error.fields[0][0] if error.fields else "", error.message)


STATUSES: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    501: grpc.StatusCode.UNIMPLEMENTED,
}


def refused_over_http(response: httpx.Response) -> Refusal:
    """The refusal that an HTTP response carries."""
    assert response.headers["content-type"].startswith("application/problem+json"), response.text
    problem = response.json()
    assert problem["detail"]
    assert problem["status"] == response.status_code
    return Refusal(STATUSES[response.status_code], problem["reason"], problem.get("field", ""), problem["detail"])
