"""Fetching for somebody who wants to reach what only the service can."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from services.common import fetch
from services.common.errors import InvalidArgument, SaccadeError, Unavailable
from services.common.fetch import FetchLimits, ImageFetcher, is_public
from tests.unit.common.test_fetch import BODY, answer, redirect, site

LIMITS = FetchLimits(max_bytes=1_000, timeout_s=10.0, max_redirects=3, ports=None)
Names = Callable[[dict[str, list[str]]], None]


@pytest.fixture
async def fetcher(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ImageFetcher]:
    """One to which 127.0.0.1 is the public internet, and 127.0.0.2 a private network."""
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1")
    made = ImageFetcher(LIMITS)
    yield made
    await made.close()


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Sets what names resolve to, one address after the other where there are several looks."""
    known: dict[str, Iterator[str]] = {}

    async def resolve(host: str, port: int, **_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        address = next(known[host]) if host in known else host
        return [(2, 1, 6, "", (address, port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    return lambda given: known.update({host: iter(addresses) for host, addresses in given.items()})


async def refusal(fetcher: ImageFetcher, url: str) -> SaccadeError:
    with pytest.raises(SaccadeError) as caught:
        await fetcher.fetch(url)
    return caught.value


async def test_a_redirect_into_a_private_network_is_not_followed(fetcher: ImageFetcher, names: Names) -> None:
    names({"public.example": ["127.0.0.1"], "inside.example": ["127.0.0.2"]})
    async with site(answer()) as inside:
        async with site(redirect(lambda _: f"http://inside.example:{inside.port}/")) as outside:
            error = await refusal(fetcher, f"http://public.example:{outside.port}/")
        assert error.reason == "URL_NOT_PUBLIC"
        assert len(outside.requests) == 1
    assert inside.requests == []


async def test_a_name_that_turns_private_between_two_hops(fetcher: ImageFetcher, names: Names) -> None:
    names({"turning.example": ["127.0.0.1", "127.0.0.2"]})
    async with site(redirect(lambda _: "/again")) as here:
        assert (await refusal(fetcher, f"http://turning.example:{here.port}/")).reason == "URL_NOT_PUBLIC"
    assert len(here.requests) == 1


async def test_a_redirect_to_a_public_address_is_followed(fetcher: ImageFetcher, names: Names) -> None:
    names({"one.example": ["127.0.0.1"], "two.example": ["127.0.0.1"]})
    async with site(answer()) as there:
        async with site(redirect(lambda _: f"//two.example:{there.port}/b")) as here:
            assert await fetcher.fetch(f"http://one.example:{here.port}/") == BODY
        assert f"Host: two.example:{there.port}" in there.requests[0]


@pytest.mark.parametrize(
    "target",
    ["gopher://127.0.0.1/", "file:///etc/passwd", "javascript:alert(1)", "data:image/png;base64,AA==", "//", "http://"],
)
async def test_redirects_to_other_schemes(fetcher: ImageFetcher, target: str) -> None:
    async with site(redirect(lambda _: target)) as here:
        # What is no scheme of the web is refused, or means a path of the same host.
        assert (await refusal(fetcher, here.url)).reason in {"URL_MALFORMED", "URL_REDIRECTS"}


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a\r\nX-Injected: 1",
        "http://127.0.0.1\r\nHost: inside/",
        "http://127.0.0.1 inside/",
        "http://127.0.0.1\\@inside/",
        "http://[::1",
        "http://127.0.0.1:80:80/",
        "http://\u2488\u2488/",
    ],
)
async def test_addresses_that_mean_two_things_send_nothing_odd(fetcher: ImageFetcher, url: str) -> None:
    async with site(answer()) as here:
        target = url.replace("127.0.0.1", f"127.0.0.1:{here.port}")
        with contextlib.suppress(InvalidArgument, Unavailable):
            await fetcher.fetch(target)
        for request in here.requests:
            head = [line.partition(":")[0].lower() for line in request.split("\r\n")[1:] if line]
            assert sorted(head) == ["accept", "accept-encoding", "connection", "host", "user-agent"]
            assert f"Host: 127.0.0.1:{here.port}\r\n" in request


@pytest.mark.parametrize("port", [22, 25, 6379, 9000, 19530])
async def test_ports_of_other_services(port: int) -> None:
    careful = ImageFetcher(FetchLimits())
    error = await refusal(careful, f"http://pictures.example:{port}/")
    assert (type(error), error.reason) == (InvalidArgument, "URL_PORT")
    await careful.close()


async def test_a_redirect_to_another_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "is_public", lambda _: True)
    async with site(answer()) as inside, site(redirect(lambda _: f"http://127.0.0.1:{inside.port}/")) as here:
        careful = ImageFetcher(FetchLimits(ports=frozenset({here.port})))
        assert (await refusal(careful, here.url)).reason == "URL_PORT"
        await careful.close()
    assert inside.requests == []


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "localhost.", "0", "[::127.0.0.1]"])
async def test_other_spellings_of_loopback(host: str) -> None:
    careful = ImageFetcher(FetchLimits())
    assert (await refusal(careful, f"http://{host}/")).reason in {"URL_NOT_PUBLIC", "URL_HOST_UNKNOWN", "URL_MALFORMED"}
    await careful.close()


@pytest.mark.parametrize(
    "address",
    [
        *("64:ff9b:1::a00:1", "64:ff9b::7f00:1", "::7f00:1", "::ffff:0:7f00:1", "3fff::1", "5f00::1", "100::1"),
        *("2001:2::1", "2002:a00:1::1", "2001:0:4136:e378::1", "0.0.0.1", "192.0.2.1", "203.0.113.9", "239.1.1.1"),
        "fe80::1%lo",
    ],
)
def test_ranges_that_lead_inside_or_nowhere(address: str) -> None:
    assert not is_public(address)


async def test_what_is_no_picture_is_not_read_on(fetcher: ImageFetcher) -> None:
    """A neighbour's page is not even read, and nothing of it is told."""
    done = asyncio.Event()

    async def page(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\nroot:x:0:0:secret:/root\n")
        await writer.drain()
        await done.wait()

    async with site(page) as here:
        error = await refusal(fetcher, here.url)
        done.set()
    assert error.reason == "URL_CONTENT_TYPE"
    assert "secret" not in error.message


async def test_an_answer_with_endless_headers(fetcher: ImageFetcher) -> None:
    async def endless(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(100_000):
            if writer.is_closing():
                return
            writer.write(f"X-{number}: {'y' * 100}\r\n".encode())
            await writer.drain()

    async with site(endless) as here:
        assert isinstance(await refusal(fetcher, here.url), Unavailable)
