"""Fetching pictures, from a real server on loopback that answers whatever a test wants."""

import asyncio
import gzip
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.common.deadline import call_deadline
from services.common.errors import DeadlineExceeded, InvalidArgument, InvalidImage, SaccadeError, Unavailable
from services.common.fetch import FetchLimits, ImageFetcher, is_public

BODY = b"\x89PNG\r\n\x1a\nand so on"
LIMITS = FetchLimits(max_bytes=1_000, timeout_s=10.0, max_redirects=2, ports=None)

Handler = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


class Site:
    """A server that remembers the requests it got."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.requests: list[str] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(request)
            await self.handler(request.split()[1], writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def site(handler: Handler) -> AsyncIterator[Site]:
    here = Site(handler)
    server = await asyncio.start_server(here.serve, "127.0.0.1", 0)
    here.port = server.sockets[0].getsockname()[1]
    try:
        yield here
    finally:
        server.close()
        await server.wait_closed()


def answer(
    body: bytes = BODY, *, status: str = "200 OK", kind: str = "image/png", headers: tuple[str, ...] = ()
) -> Handler:
    async def handler(_: str, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
        if kind:
            lines.append(f"Content-Type: {kind}")
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    return handler


def redirect(target: Callable[[str], str]) -> Handler:
    async def handler(path: str, writer: asyncio.StreamWriter) -> None:
        where = target(path)
        if where:
            writer.write(f"HTTP/1.1 302 Found\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode())
        else:
            await answer()(path, writer)

    return handler


@pytest.fixture
async def fetcher() -> AsyncIterator[ImageFetcher]:
    fetcher = ImageFetcher(LIMITS, allow_private=True)
    yield fetcher
    await fetcher.close()


@pytest.fixture(scope="module")
def careful() -> ImageFetcher:
    """It refuses all that these tests ask of it before it connects, so there is nothing to close."""
    return ImageFetcher(LIMITS)


async def refusal(fetcher: ImageFetcher, url: str) -> SaccadeError:
    with pytest.raises(SaccadeError) as caught:
        await fetcher.fetch(url, field="parts[0].image_url")
    assert caught.value.field == "parts[0].image_url"
    return caught.value


@pytest.mark.parametrize("kind", ["image/png", "IMAGE/JPEG; q=1", "application/octet-stream", "", "text/html"])
async def test_a_picture_comes_as_it_is(fetcher: ImageFetcher, kind: str) -> None:
    async with site(answer(kind=kind)) as here:
        assert await fetcher.fetch(f"{here.url}/a.png?size=1#part") == BODY
    head = here.requests[0].lower()
    assert head.startswith("get /a.png?size=1 http/1.1")
    assert f"host: 127.0.0.1:{here.port}" in head
    assert "accept-encoding: identity" in head
    assert "cookie" not in head


async def test_a_name_is_sent_as_the_host(fetcher: ImageFetcher) -> None:
    async with site(answer()) as here:
        assert await fetcher.fetch(f"http://localhost:{here.port}/") == BODY
    assert f"Host: localhost:{here.port}" in here.requests[0]


async def test_redirects_are_followed_as_far_as_allowed(fetcher: ImageFetcher) -> None:
    hops = {"/2": "/1", "/1": "/0", "/0": "", "/3": "/2"}
    async with site(redirect(hops.__getitem__)) as here:
        assert await fetcher.fetch(f"{here.url}/2") == BODY
        assert (await refusal(fetcher, f"{here.url}/3")).reason == "URL_REDIRECTS"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("ftp://127.0.0.1/a", "URL_MALFORMED"),
        ("file:///etc/passwd", "URL_MALFORMED"),
        ("http://user:secret@127.0.0.1/a", "URL_CREDENTIALS"),
    ],
)
async def test_each_redirect_is_checked(fetcher: ImageFetcher, target: str, reason: str) -> None:
    async with site(redirect(lambda _: target)) as here:
        assert (await refusal(fetcher, here.url)).reason == reason


async def test_a_redirect_to_nowhere(fetcher: ImageFetcher) -> None:
    async with site(answer(status="302 Found")) as here:
        assert (await refusal(fetcher, here.url)).reason == "URL_STATUS"


async def test_cookies_are_not_kept(fetcher: ImageFetcher) -> None:
    async with site(answer(headers=("Set-Cookie: a=b",))) as here:
        await fetcher.fetch(here.url)
        await fetcher.fetch(here.url)
    assert "cookie" not in here.requests[1].lower()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "URL_MALFORMED"),
        ("picture.png", "URL_MALFORMED"),
        ("ftp://example.com/a.png", "URL_MALFORMED"),
        ("http://", "URL_MALFORMED"),
        ("http:///a.png", "URL_MALFORMED"),
        ("http://host:99999999/", "URL_MALFORMED"),
        ("http://example.com/\x00", "URL_MALFORMED"),
        ("http://me:pass@example.com/a.png", "URL_CREDENTIALS"),
        ("http://example.com/" + "a" * 5_000, "URL_MALFORMED"),
        ("http://no-such-host.invalid/a.png", "URL_HOST_UNKNOWN"),
        ("http://" + "a" * 70 + ".example.com/", "URL_HOST_UNKNOWN"),
    ],
)
async def test_bad_addresses(careful: ImageFetcher, url: str, reason: str) -> None:
    error = await refusal(careful, url)
    # Where no name server answers at all, a name is neither known nor unknown.
    assert error.reason == reason or (reason == "URL_HOST_UNKNOWN" and error.reason == "URL_UNREACHABLE")
    assert isinstance(error, InvalidArgument | Unavailable)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "0.0.0.0",  # noqa: S104 - it is an address to refuse
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "168.63.129.16",
        "192.0.0.192",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[::ffff:127.0.0.1]",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::a00:1]",
        "[2002:7f00:1::]",
        "[ff02::1]",
        "[fec0::1]",
    ],
)
async def test_addresses_that_are_not_public(careful: ImageFetcher, host: str) -> None:
    error = await refusal(careful, f"http://{host}:9/a.png")
    assert isinstance(error, InvalidArgument)
    assert error.reason in {"URL_NOT_PUBLIC", "URL_HOST_UNKNOWN", "URL_MALFORMED"}


async def test_nothing_is_sent_to_an_address_that_is_not_public(careful: ImageFetcher) -> None:
    async with site(answer()) as here:
        assert (await refusal(careful, here.url)).reason == "URL_NOT_PUBLIC"
    assert here.requests == []


async def test_one_private_address_among_public_ones_is_enough(
    careful: ImageFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolve(*_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        return [(2, 1, 6, "", (address, 80)) for address in ("8.8.8.8", "10.0.0.1")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    assert (await refusal(careful, "http://both.example/")).reason == "URL_NOT_PUBLIC"


async def test_the_connection_goes_to_the_address_that_was_checked(
    fetcher: ImageFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is resolved once; what it would resolve to at a second look does not matter."""
    looks = []

    async def resolve(host: str, port: int, **_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        looks.append(host)
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    async with site(answer()) as here:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
        assert await fetcher.fetch(f"http://rebinding.example:{here.port}/") == BODY
    assert looks[0] == "rebinding.example"
    assert "rebinding.example" not in looks[1:]
    assert f"Host: rebinding.example:{here.port}" in here.requests[0]


async def test_the_next_address_is_tried_where_one_takes_no_connection(
    fetcher: ImageFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolve(host: str, port: int, **_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        addresses = ("127.0.0.2", "127.0.0.1") if host == "two.example" else (host,)
        return [(2, 1, 6, "", (address, port)) for address in addresses]

    async with site(answer()) as here:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
        assert await fetcher.fetch(f"http://two.example:{here.port}/") == BODY


@pytest.mark.parametrize(
    ("handler", "kind", "reason"),
    [
        (answer(status="404 Not Found"), InvalidArgument, "URL_STATUS"),
        (answer(status="204 No Content", body=b""), InvalidArgument, "URL_STATUS"),
        (answer(status="503 Service Unavailable"), Unavailable, "URL_STATUS"),
        (answer(status="429 Too Many Requests"), Unavailable, "URL_STATUS"),
        (answer(b"<html>" * 9, kind="text/html; charset=utf-8"), InvalidArgument, "URL_CONTENT_TYPE"),
        (answer(b"<html>" * 9, kind="image/png"), InvalidArgument, "URL_CONTENT_TYPE"),
        (answer(b"root:x:0:0", kind="image/png"), InvalidArgument, "URL_CONTENT_TYPE"),
        (answer(b""), InvalidArgument, "URL_CONTENT_TYPE"),
        (answer(gzip.compress(BODY), headers=("Content-Encoding: gzip",)), InvalidArgument, "URL_CONTENT_TYPE"),
        (answer(BODY + b"x" * 1_001), InvalidImage, "IMAGE_TOO_LARGE"),
    ],
)
async def test_bad_answers(fetcher: ImageFetcher, handler: Handler, kind: type[SaccadeError], reason: str) -> None:
    async with site(handler) as here:
        error = await refusal(fetcher, here.url)
    assert (type(error), error.reason) == (kind, reason)


async def test_a_body_of_unknown_length_is_cut_off_at_the_limit(fetcher: ImageFetcher) -> None:
    sent = 0

    async def endless(_: str, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n" + BODY)
        while not writer.is_closing():
            writer.write(b"x" * 10_000)
            sent += 10_000
            await writer.drain()

    async with site(endless) as here:
        assert (await refusal(fetcher, here.url)).reason == "IMAGE_TOO_LARGE"
    assert sent < 50_000_000


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\nx"])
async def test_a_host_that_stalls(start: bytes) -> None:
    done = asyncio.Event()

    async def stall(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        await done.wait()

    fetcher = ImageFetcher(FetchLimits(timeout_s=0.2, ports=None), allow_private=True)
    async with site(stall) as here:
        error = await refusal(fetcher, here.url)
        done.set()
    await fetcher.close()
    assert (type(error), error.reason) == (DeadlineExceeded, "URL_TIMEOUT")


async def test_a_drip_does_not_outlast_the_whole_limit() -> None:
    async def drip(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n" + BODY)
        for _i in range(200):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    fetcher = ImageFetcher(FetchLimits(timeout_s=0.3, ports=None), allow_private=True)
    async with site(drip) as here:
        assert (await refusal(fetcher, here.url)).reason == "URL_TIMEOUT"
    await fetcher.close()


async def test_the_calls_deadline_counts_too(fetcher: ImageFetcher) -> None:
    done = asyncio.Event()

    async def stall(_: str, __: asyncio.StreamWriter) -> None:
        await done.wait()

    async with site(stall) as here:
        with call_deadline(0.1):
            assert (await refusal(fetcher, here.url)).reason == "URL_TIMEOUT"
        done.set()


async def test_nobody_listens(fetcher: ImageFetcher) -> None:
    async with site(answer()) as here:
        pass
    error = await refusal(fetcher, here.url)
    assert (type(error), error.reason) == (Unavailable, "URL_UNREACHABLE")


@pytest.mark.parametrize("text", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n" + BODY])
async def test_a_broken_answer(fetcher: ImageFetcher, text: bytes) -> None:
    async def handler(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(text)

    async with site(handler) as here:
        assert isinstance(await refusal(fetcher, here.url), Unavailable)


async def test_plain_http_where_tls_was_asked_for(fetcher: ImageFetcher) -> None:
    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        error = await refusal(fetcher, f"https://localhost:{server.sockets[0].getsockname()[1]}/")
    assert (type(error), error.reason) == (Unavailable, "URL_UNREACHABLE")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
async def test_a_certificate_must_be_the_named_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes to an address, the certificate is checked for the name all the same."""
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=pictures.example"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    names = ["-addext", "subjectAltName=DNS:pictures.example"]
    await asyncio.to_thread(subprocess.run, ["openssl", *made, *names, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    here = Site(answer())
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    fetcher = ImageFetcher(LIMITS, allow_private=True)

    async def resolve(_: str, port: int, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    async with await asyncio.start_server(here.serve, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        assert await fetcher.fetch(f"https://pictures.example:{port}/") == BODY
        error = await refusal(fetcher, f"https://other.example:{port}/")
    await fetcher.close()
    assert (type(error), error.reason) == (Unavailable, "URL_UNREACHABLE")
    assert "certificate" in error.message.lower()


@pytest.mark.parametrize(
    ("address", "public"),
    [("8.8.8.8", True), ("2606:4700::1111", True), ("::ffff:8.8.8.8", True), ("64:ff9b::808:808", True)]
    + [(address, False) for address in ("fe80::1%eth0", "10.1.2.3", "2001:db8::1", "2001::1", "198.18.0.1")],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public
