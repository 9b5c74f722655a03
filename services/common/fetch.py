"""Pictures from addresses that strangers name: fetched within limits, and never from a private network.

A service that fetches for strangers could be sent to its own neighbours (server-side request forgery). So the host is
resolved here, every one of its addresses must be public, and the connection goes to the very address that was checked:
a name that resolves differently a moment later changes nothing. Every redirect is checked anew. What comes is read on
only where it begins like a picture, whatever the answer calls it: nobody reads a neighbour's pages by this.
"""

import asyncio
import ipaddress
import socket
import ssl
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from ipaddress import IPv4Address, IPv6Address
from typing import Final

import httpx

from services.common.deadline import time_left_s
from services.common.errors import DeadlineExceeded, InvalidArgument, InvalidImage, SaccadeError, Unavailable
from services.common.images import begins_like_an_image

__all__ = ["FetchLimits", "ImageFetcher", "is_public"]

_Address = IPv4Address | IPv6Address

_MAX_URL_CHARS: Final = 4_096
_MAX_ADDRESSES_TRIED: Final = 3
_MAX_PORT: Final = 65_535
_PORTS: Final = {"http": 80, "https": 443}
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
# Of the formats that are read, the longest beginning that tells one.
_SNIFFED_BYTES: Final = 12
_HEADERS: Final = {
    "Accept": "image/*, application/octet-stream;q=0.5",
    # A compressed answer could unpack into far more bytes than were counted.
    "Accept-Encoding": "identity",
    "User-Agent": "saccade",
}
# Never public, whatever the address registries say: where clouds answer their machines' own questions, and ranges
# that reach private IPv4 addresses through a gateway or a translator, or are routed by nobody.
_REFUSED: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "fec0::/10", "2002::/16", "2001::/32"),
        *("64:ff9b:1::/48", "3fff::/20", "5f00::/16"),
    )
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What one fetch may cost; beyond any of these it fails with a sentence."""

    max_bytes: int = 32 * 1024 * 1024
    timeout_s: float = 20.0
    max_redirects: int = 5
    max_connections: int = 32
    ports: frozenset[int] | None = frozenset({80, 443})
    """Ports that are asked; None: any."""


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet: not private, loopback, link-local, multicast or reserved."""
    ip: _Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif ip in _NAT64:
            ip = IPv4Address(int(ip) & 0xFFFF_FFFF)
    if any(ip.version == network.version and ip in network for network in _REFUSED):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


class ImageFetcher:
    """Fetches pictures over http and https. Safe for concurrent use; close it at the end."""

    def __init__(self, limits: FetchLimits, *, allow_private: bool = False) -> None:
        """Make a fetcher.

        Args:
            limits: What one fetch may cost.
            allow_private: Whether private and loopback addresses are fetched too. Only where every caller is trusted.
        """
        self._limits = limits
        self._allow_private = allow_private
        self._client = httpx.AsyncClient(
            verify=ssl.create_default_context(),
            headers=_HEADERS,
            # Each part of an exchange; the whole is bounded by `fetch`. A connection that does not come leaves time
            # for the host's next address.
            timeout=httpx.Timeout(limits.timeout_s, connect=limits.timeout_s / 2),
            # A kept connection was opened, and its certificate checked, for one host name only; another name at the
            # same address must not inherit it.
            limits=httpx.Limits(max_connections=limits.max_connections, max_keepalive_connections=0),
            follow_redirects=False,
            # A proxy from the environment would connect in our place, to addresses of its own choice.
            trust_env=False,
        )
        self._client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=()))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def fetch(self, url: str, *, field: str = "image.url") -> bytes:
        """The bytes behind an address. Whether they are a picture is for the caller to see.

        Raises:
            InvalidArgument: the address is malformed, not public or of an unknown host or port, or what it gives is
                refused: status 4xx, what does not begin like an image, too many redirects; `field` is named.
            InvalidImage: reason IMAGE_TOO_LARGE.
            Unavailable: the host does not answer, or answers with 429 or 5xx.
            DeadlineExceeded: it took longer than the limit or than the call has left.
        """
        limit_s = time_left_s(self._limits.timeout_s)
        try:
            async with asyncio.timeout(limit_s):
                return await self._follow(url, field)
        except (TimeoutError, httpx.TimeoutException) as exc:
            raise DeadlineExceeded(
                f"the address did not give the image within {limit_s:.0f} s", field=field, reason="URL_TIMEOUT"
            ) from exc
        except httpx.InvalidURL as exc:
            raise _refused("this is not a web address", field, "URL_MALFORMED") from exc
        except httpx.HTTPError as exc:
            raise Unavailable(
                f"the address can not be read ({str(exc) or type(exc).__name__})", field=field, reason="URL_UNREACHABLE"
            ) from exc

    async def _follow(self, url: str, field: str) -> bytes:
        target = _parsed(url, field)
        for _ in range(self._limits.max_redirects + 1):
            response = await self._get(target, field)
            try:
                if response.status_code not in _REDIRECTS:
                    return await self._read(response, field)
                location = response.headers.get("location", "")
            finally:
                await response.aclose()
            if not location:
                raise _refused("the address redirects to nowhere", field, "URL_STATUS")
            target = _parsed(location, field, base=target)
        raise _refused(f"the address redirects more than {self._limits.max_redirects} times", field, "URL_REDIRECTS")

    async def _get(self, url: httpx.URL, field: str) -> httpx.Response:
        """The answer's head, from the first of the host's addresses that takes a connection."""
        port = url.port or _PORTS[url.scheme]
        if self._limits.ports is not None and port not in self._limits.ports:
            allowed = ", ".join(map(str, sorted(self._limits.ports)))
            raise _refused(f"addresses are fetched from the ports {allowed}, not from {port}", field, "URL_PORT")
        addresses = await self._resolve(url, port, field)
        for address in addresses[:-1]:
            try:
                return await self._get_from(address, url)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return await self._get_from(addresses[-1], url)

    async def _get_from(self, address: str, url: httpx.URL) -> httpx.Response:
        request = self._client.build_request(
            "GET",
            url.copy_with(host=address, fragment=None),
            headers={"Host": url.netloc.decode("ascii")},
            # The certificate must be the named host's, whatever address the connection goes to.
            extensions={"sni_hostname": url.raw_host.decode("ascii")},
        )
        return await self._client.send(request, stream=True)

    async def _resolve(self, url: httpx.URL, port: int, field: str) -> list[str]:
        """The host's addresses, each once; InvalidArgument if one of them is not public."""
        host = url.raw_host.decode("ascii")
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as exc:
            if isinstance(exc, socket.gaierror) and exc.errno == socket.EAI_AGAIN:
                raise Unavailable(
                    f"the host {host!r} can not be resolved now", field=field, reason="URL_UNREACHABLE"
                ) from exc
            raise _refused(f"there is no host {host!r}", field, "URL_HOST_UNKNOWN") from exc
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not addresses:
            raise _refused(f"there is no host {host!r}", field, "URL_HOST_UNKNOWN")
        if not self._allow_private and not all(is_public(address) for address in addresses):
            raise _refused(
                f"the host {host!r} is not on the public internet; addresses in private networks are not fetched",
                field,
                "URL_NOT_PUBLIC",
            )
        return addresses[:_MAX_ADDRESSES_TRIED]

    async def _read(self, response: httpx.Response, field: str) -> bytes:
        """The answer's body, if its head is right."""
        status = response.status_code
        if status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise Unavailable(f"the address answered with status {status}", field=field, reason="URL_STATUS")
        if status != httpx.codes.OK:
            raise _refused(f"the address answered with status {status} instead of an image", field, "URL_STATUS")
        if response.headers.get("content-encoding", "identity").lower() not in {"identity", ""}:
            raise _refused("the address gives a compressed answer that was not asked for", field, "URL_CONTENT_TYPE")
        length = response.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > self._limits.max_bytes:
            raise self._too_large(field)
        data = bytearray()
        sniffed = False
        async for chunk in response.aiter_raw():
            data += chunk
            if len(data) > self._limits.max_bytes:
                raise self._too_large(field)
            if not sniffed and len(data) >= _SNIFFED_BYTES:
                sniffed = True
                _check_begins_like_an_image(data, response, field)
        _check_begins_like_an_image(data, response, field)
        return bytes(data)

    def _too_large(self, field: str) -> InvalidImage:
        return InvalidImage(
            f"the address gives more than {self._limits.max_bytes:,} bytes, the most that an image may have",
            field=field,
            reason="IMAGE_TOO_LARGE",
        )


def _check_begins_like_an_image(data: bytearray, response: httpx.Response, field: str) -> None:
    if not begins_like_an_image(bytes(data[:_SNIFFED_BYTES])):
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        called = f" but something called {kind[:100]!r}" if kind and not kind.startswith("image/") else ""
        raise _refused(f"the address gives no JPEG, PNG, WebP, GIF, BMP or TIFF{called}", field, "URL_CONTENT_TYPE")


def _refused(message: str, field: str, reason: str) -> SaccadeError:
    return InvalidArgument(message, field=field, reason=reason)


def _parsed(url: str, field: str, base: httpx.URL | None = None) -> httpx.URL:
    """An address to fetch, checked for everything but where its host is."""
    if len(url) > _MAX_URL_CHARS:
        raise _refused(f"an address has at most {_MAX_URL_CHARS:,} characters", field, "URL_MALFORMED")
    try:
        parsed = base.join(url) if base is not None else httpx.URL(url)
        host, port = parsed.raw_host.decode("ascii"), parsed.port or 0
    except (httpx.InvalidURL, ValueError) as exc:
        raise _refused("this is not a web address", field, "URL_MALFORMED") from exc
    if parsed.scheme not in {"http", "https"} or not host:
        raise _refused("the address must begin with http:// or https:// and name a host", field, "URL_MALFORMED")
    if port > _MAX_PORT:
        raise _refused(f"a port is at most {_MAX_PORT}", field, "URL_MALFORMED")
    if parsed.userinfo:
        raise _refused("the address must not carry a user name or password", field, "URL_CREDENTIALS")
    return parsed
