import re
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from grpc_health.v1 import health_pb2
from starlette.types import Message

from services.common.objects.signing import Signer, load_signing_key

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


async def test_objects_count_among_what_is_held_in_memory(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, max_buffered_bytes=100) as gateway:
        for key, size in (("small", 100), ("large", 101)):
            await gateway.objects.put(key, bytes(size))
        for _ in range(2):
            assert (await gateway.http.get(await gateway.objects.presign("small"))).status_code == 200
            refused = await gateway.http.get(await gateway.objects.presign("large"))
            assert (refused.status_code, refused.json()["reason"]) == (429, "OVERLOADED")


async def test_only_pictures_are_shown_by_browsers(gateway: Gateway) -> None:
    stored = {"page": b"<script>alert(1)</script>", "svg": b"<svg onload='alert(1)'/>", "record.json": b"{}"}
    for key, data in stored.items():
        await gateway.objects.put(key, data)
        headers = (await gateway.http.get(await gateway.objects.presign(key))).headers
        assert headers["content-disposition"] == "attachment"
        assert headers["content-type"] in ("application/octet-stream", "application/json")
        assert headers["x-content-type-options"] == "nosniff"


async def raw_status(gateway: Gateway, path: str, query: str) -> int:
    """The status for a path that clients would not send as it is; it arrives decoded once, as servers hand it on."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(b"host", b"gateway.test")],
        "server": ("gateway.test", 80),
    }
    await gateway.app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent)
    assert b"for nobody" not in body
    assert str(gateway.folder).encode() not in body
    return int(sent[0]["status"])


KEY = "collections/c/images/i/original"


async def test_an_address_is_good_for_its_own_object_alone(gateway: Gateway) -> None:
    for key in (KEY, "collections/c/images/j/original"):
        await gateway.objects.put(key, PNG)
    good = urlsplit(await gateway.objects.presign(KEY))
    assert await raw_status(gateway, good.path, good.query) == 200
    signature = parse_qs(good.query)["signature"][0]
    paths = [
        good.path.replace("/i/", "/j/"),
        good.path.replace("/objects/", "/objects//"),
        f"{good.path}/",
        good.path.replace("/i/", "/./i/"),
        good.path.replace("/i/", "/x/../i/"),
        good.path.replace("/i/", "/x/%2e%2e/i/"),
        good.path.upper().replace("/OBJECTS", "/objects"),
        good.path.replace("/i/", "%5ci%5c"),
        f"{good.path}%00",
    ]
    queries = [
        "",
        f"signature={signature}",
        f"expires=99999999999&signature={signature}",
        good.query.replace("expires=", "expires=0"),
        good.query.replace("expires=", "expires=+"),
        good.query.replace(signature, signature[::-1]),
        good.query.replace(signature, signature.upper()),
        f"expires=1&{good.query}&expires=99999999999",
    ]
    statuses = {path: await raw_status(gateway, path, good.query) for path in paths}
    statuses |= {query: await raw_status(gateway, good.path, query) for query in queries}
    assert set(statuses.values()) <= {400, 404}, statuses


@pytest.mark.parametrize(
    "key",
    [
        "../secret",
        "a/../../secret",
        "%2e%2e/secret",
        "..%2fsecret",
        "..\\secret",
        "/secret",
        "//secret",
        ".signing-key",
        "a/.signing-key",
        "secret\0",
        "a/./b",
        "",
    ],
)
async def test_no_address_leads_out_of_the_folder_even_if_it_is_signed(gateway: Gateway, key: str) -> None:
    (gateway.folder.parent / "secret").write_text("for nobody")
    await gateway.objects.presign("a")
    signer = Signer(load_signing_key(gateway.folder), public_url="http://gateway.test", expiry_s=60)
    url = urlsplit(signer.url(key))
    assert await raw_status(gateway, url.path, url.query) in (400, 404)


async def test_an_address_expires(gateway: Gateway) -> None:
    await gateway.objects.put(KEY, PNG)
    signer = Signer(load_signing_key(gateway.folder), public_url="http://gateway.test", expiry_s=0)
    gone = await gateway.http.get(signer.url(KEY))
    assert (gone.status_code, gone.json()["reason"]) == (404, "URL_EXPIRED")


async def test_probes(gateway: Gateway) -> None:
    assert (await gateway.http.get("/healthz")).json() == {"status": "ok"}
    ready = await gateway.http.get("/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    await gateway.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    late = await gateway.http.get("/readyz")
    assert late.status_code == 503
    assert late.json() == {"ready": False, "services": {"embedder": False, "ingest": False, "query": False}}
    assert (await gateway.http.get("/healthz")).status_code == 200
