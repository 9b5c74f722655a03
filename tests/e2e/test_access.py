"""The whole stack with authentication: keys through the gateway and the services, and the services among themselves."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import httpx
import pytest

from saccade import ApiError, Client, NewImage
from saccade.keys import create_key, revoke_key
from services.stack.processes import wait_until
from services.stack.stack import Stack, temporary_stack
from tests.contract.pictures import good

PATIENCE_S = 60


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stack")


@pytest.fixture(scope="module")
def stack(data: Path) -> Iterator[Stack]:
    with temporary_stack(os.environ, model="toy", data=data, auth="keys") as running:
        yield running


def client_with(stack: Stack, key: str) -> Client:
    return Client(embedder=stack.embedder, ingest=stack.ingest, query=stack.query, key=key, timeout_s=PATIENCE_S)


def code(act: Callable[[], object]) -> grpc.StatusCode:
    """What a call is answered with."""
    try:
        act()
    except ApiError as exc:
        return exc.code
    return grpc.StatusCode.OK


def becomes(wanted: grpc.StatusCode, act: Callable[[], object]) -> bool:
    """Whether a call is answered so before long."""
    return wait_until(lambda: code(act) is wanted, timeout_s=PATIENCE_S)


def test_keys_from_the_page_to_the_models(stack: Stack, data: Path) -> None:
    with stack.client(PATIENCE_S) as admin:
        for name in ("birds", "cats"):
            admin.create_collection(name)
            # To be searchable it has to be embedded, and segmented: ingest is known to the embedder.
            admin.create_image(name, NewImage(good("red", "yellow"), id="one"), wait_for="segmented")
        assert [found.image.id for found in admin.search("birds", text="red", top_k=1).results] == ["one"]

    reader, _ = create_key(data / "keys.json", "reader", scope="read", collections=["birds"])
    with client_with(stack, reader) as reading, client_with(stack, "") as nobody:
        # A new key is known to a running service within seconds.
        assert becomes(grpc.StatusCode.OK, lambda: reading.get_image("birds", "one"))
        assert becomes(grpc.StatusCode.OK, lambda: reading.search("birds", text="red"))
        assert [each.name for each in reading.list_collections()] == ["birds"]
        denied, unknown = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED
        assert code(lambda: reading.get_image("cats", "one")) is denied
        assert code(lambda: reading.search("cats", text="red")) is denied
        assert code(lambda: reading.delete_image("birds", "one")) is denied
        assert code(lambda: list(reading.stream_images([NewImage(good("red", "blue"))], collection="birds"))) is denied
        assert code(lambda: nobody.get_image("birds", "one")) is unknown
        assert code(nobody.get_model) is unknown

        headers = {"authorization": f"Bearer {reader}"}
        with httpx.Client(base_url=stack.gateway_url, timeout=PATIENCE_S) as http:
            image = "/v1/collections/birds/images/one"
            assert wait_until(lambda: http.get(image, headers=headers).status_code == 200, timeout_s=PATIENCE_S)
            assert http.get(image).status_code == 401
            assert http.get(image, headers={"authorization": "Bearer nonsense"}).status_code == 401
            assert http.delete(image, headers=headers).status_code == 403
            assert http.get("/v1/collections/cats/images/one", headers=headers).status_code == 403
            assert http.get("/readyz").status_code == 200

        revoke_key(data / "keys.json", "reader")
        assert becomes(unknown, lambda: reading.get_image("birds", "one"))
    assert "stack" in (data / "keys.json").read_text()
    assert stack.key not in stack.processes["ingest"].output, "keys are not logged"
    audited = [line for line in stack.processes["ingest"].output.splitlines() if " audit " in line]
    assert any("CreateCollection" in line and "outcome=OK" in line for line in audited)
    assert any("DeleteImage" in line and "outcome=PERMISSION_DENIED" in line for line in audited)
    assert all("trace_id=" in line for line in audited)
