import asyncio
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from prometheus_client import REGISTRY
from pydantic import ValidationError

from saccade.embedder.v1 import embedder_service_pb2 as pb
from services.gateway.settings import GatewaySettings

from .conftest import Gateway, running_gateway


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://gateway.test"}, 200),
        ({"sec-fetch-site": "same-origin", "origin": "http://elsewhere.test"}, 200),
        ({"origin": "http://elsewhere.test"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
async def test_other_sites_pages_can_not_write(gateway: Gateway, headers: dict[str, str], status: int) -> None:
    response = await gateway.http.post("/v1/collections", json={"name": "c"}, headers=headers)
    assert response.status_code == status
    assert len(gateway.recorder.requests) == (status == 200)
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("gateway.test", 200),
        ("gateway.test:8080", 200),
        ("Gateway.Test.", 200),
        ("localhost:8080", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("10.1.2.3", 200),
        ("listens.test", 200),
        ("other.test:1", 200),
        ("third.test", 200),
        ("evil.test", 421),
        ("evil.test:8080", 421),
        ("localhost.evil.test", 421),
        ("127.0.0.1.evil.test", 421),
        ("", 421),
    ],
)
async def test_only_names_of_its_own_are_answered(tmp_path: Path, host: str, status: int) -> None:
    """A name of another site's own that leads here (DNS rebinding) would make its pages ours."""
    async with running_gateway(tmp_path, listen="listens.test:8080", allowed_hosts="Other.test, third.test") as gateway:
        headers = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
        answers = [await gateway.http.get(path, headers=headers) for path in ("/v1/collections", "/", "/healthz")]
    for answer in answers:
        assert answer.status_code == status
        if status == 421:
            assert answer.headers["content-type"] == "application/problem+json"
            assert (answer.json()["reason"], answer.json()["field"]) == ("UNKNOWN_HOST", "host")
            assert "SACCADE_ALLOWED_HOSTS" in answer.json()["detail"]


async def test_any_name_may_be_allowed(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, allowed_hosts="*") as gateway:
        assert (await gateway.http.get("/v1/model", headers={"host": "any.test"})).status_code == 200


@pytest.mark.parametrize("hosts", ["https://a.test", "a.test:80", "a.test b.test", "*.a.test"])
def test_what_is_no_name_is_refused(hosts: str) -> None:
    with pytest.raises(ValidationError, match="names without scheme and port"):
        GatewaySettings(allowed_hosts=hosts)


async def test_more_requests_than_allowed_are_refused_at_once(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, max_requests=1) as gateway:
        started, release = asyncio.Event(), asyncio.Event()

        async def wait() -> Message:
            started.set()
            await release.wait()
            return pb.GetModelResponse()

        gateway.recorder.answers["GetModel"] = wait
        first = asyncio.ensure_future(gateway.http.get("/v1/model"))
        await asyncio.wait_for(started.wait(), 5)
        refused = await gateway.http.get("/v1/collections")
        release.set()
        assert (await first).status_code == 200
        assert (await gateway.http.get("/v1/collections")).status_code == 200
    assert (refused.status_code, refused.json()["reason"]) == (429, "OVERLOADED")
    assert refused.headers["retry-after"] == "1"


async def test_every_answer_has_the_security_headers(gateway: Gateway) -> None:
    for address in ("/", "/v1/model", "/nowhere", "/healthz"):
        headers = (await gateway.http.get(address)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


def sample(name: str, **labels: Any) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_requests_are_counted_by_route_and_never_by_path(gateway: Gateway) -> None:
    route = {"method": "GET", "route": "/v1/collections/{collection}"}
    none = {"method": "GET", "route": "unmatched"}
    before = sample("http_server_requests_total", **route, status="200")
    before_none = sample("http_server_requests_total", **none, status="404")
    before_timed = sample("http_server_request_duration_seconds_count", **route)
    for path in ("/v1/collections/a", "/v1/collections/b", "/no/such/path"):
        await gateway.http.get(path)
    assert sample("http_server_requests_total", **route, status="200") == before + 2
    assert sample("http_server_request_duration_seconds_count", **route) == before_timed + 2
    assert sample("http_server_requests_total", **none, status="404") == before_none + 1
    assert sample("http_server_active_requests") == 0
