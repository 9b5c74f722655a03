import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from grpc_health.v1 import health_pb2

from .conftest import Gateway, running_gateway

PNG = b"\x89PNG\r\n\x1a\n rest"
EXTERNAL = re.compile(r"""(?:src|href|url\(|import|@import|from)\s*=?\s*["'(]?\s*(?:https?:)?//""", re.IGNORECASE)
STATIC = sorted((Path(__file__).parents[3] / "services/gateway/static").iterdir())


@pytest.mark.parametrize("address", ["/", "/docs"])
async def test_pages_come_whole_from_here(gateway: Gateway, address: str) -> None:
    page = await gateway.http.get(address)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert not EXTERNAL.search(page.text)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    links = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
    assert links
    for link in links:
        assert (await gateway.http.get(link)).status_code == 200, link


@pytest.mark.parametrize("file", STATIC, ids=lambda file: file.name)
def test_the_pages_files_name_no_other_origin(file: Path) -> None:
    assert not EXTERNAL.search(file.read_text())


@pytest.mark.parametrize("file", STATIC, ids=lambda file: file.name)
async def test_the_pages_files_are_kept_by_browsers_as_long_as_they_are_the_same(gateway: Gateway, file: Path) -> None:
    response = await gateway.http.get(f"/static/{file.name}")
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-cache"
    again = await gateway.http.get(f"/static/{file.name}", headers={"if-none-match": response.headers["etag"]})
    assert again.status_code == 304


async def test_pictures_may_come_from_where_presigned_addresses_lead(gateway: Gateway, tmp_path: Path) -> None:
    local = (await gateway.http.get("/")).headers["content-security-policy"]
    assert "img-src 'self' data: blob: http://gateway.test;" in local
    async with running_gateway(tmp_path / "s3", objects_url="", s3_public_endpoint="https://s3.test:9000") as other:
        remote = (await other.http.get("/")).headers["content-security-policy"]
    assert "img-src 'self' data: blob: https://s3.test:9000;" in remote


async def test_presigned_objects_are_served_so_that_they_never_run(gateway: Gateway) -> None:
    await gateway.objects.put("collections/c/images/i/original", PNG)
    url = await gateway.objects.presign("collections/c/images/i/original")
    response = await gateway.http.get(url)
    assert (response.status_code, response.content) == (200, PNG)
    headers = response.headers
    assert headers["content-type"] == "image/png"
    assert headers["content-disposition"] == "inline"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("sandbox")
    assert headers["cache-control"].startswith("private")


async def test_objects_need_a_good_signature(gateway: Gateway) -> None:
    await gateway.objects.put("collections/c/images/i/original", PNG)
    url = await gateway.objects.presign("collections/c/images/i/original")
    path = urlsplit(url).path
    for address in (
        path,
        f"{path}?expires=1&signature=00",
        url.replace("/i/", "/j/"),
        f"{url}0",
        "/objects/../../etc/passwd",
    ):
        response = await gateway.http.get(address)
        assert response.status_code in (400, 404), address
        assert response.headers["content-type"] == "application/problem+json"


async def test_probes(gateway: Gateway) -> None:
    assert (await gateway.http.get("/healthz")).json() == {"status": "ok"}
    ready = await gateway.http.get("/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    await gateway.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    late = await gateway.http.get("/readyz")
    assert late.status_code == 503
    assert late.json() == {"ready": False, "services": {"embedder": False, "ingest": False, "query": False}}
    assert (await gateway.http.get("/healthz")).status_code == 200
