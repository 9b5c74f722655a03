import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from services.common.errors import FailedPrecondition
from services.gateway.https import Certificate
from services.gateway.settings import GatewaySettings
from tests.integration.access_support import Authority

PATIENCE_S = 30


def files(folder: Path) -> tuple[str, str]:
    return str(folder / "gateway.pem"), str(folder / "gateway.key")


async def shown(port: int, authority: Authority) -> bytes:
    """The certificate that a new connection sees."""
    context = ssl.create_default_context(cadata=authority.pem.decode())
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return certificate


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)


async def test_a_renewed_certificate_is_shown_to_new_connections_and_a_broken_one_never(tmp_path: Path) -> None:
    authority = Authority()
    authority.write(tmp_path, "gateway")
    certificate = Certificate(*files(tmp_path), look_s=0.02)
    watching = asyncio.ensure_future(certificate.watch())
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=certificate.context)
    port = server.sockets[0].getsockname()[1]
    first = await shown(port, authority)
    with capture_logs() as logs:
        (tmp_path / "gateway.pem").write_text("no certificate")
        await until(lambda: any(line["log_level"] == "error" for line in logs))
        assert await shown(port, authority) == first
        authority.write(tmp_path, "gateway")
        await until(lambda: logs[-1]["event"] == "the certificate was renewed")
    assert await shown(port, authority) != first
    assert not watching.done()
    watching.cancel()
    server.close()
    await server.wait_closed()


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    authority = Authority()
    authority.write(tmp_path, "gateway")
    authority.write(tmp_path, "other")
    cert, key = files(tmp_path)
    for wrong in ((cert, str(tmp_path / "other.key")), (cert, str(tmp_path / "none")), (key, cert)):
        with pytest.raises(FailedPrecondition, match="belong together"):
            Certificate(*wrong)


def test_one_file_alone_is_no_certificate() -> None:
    with pytest.raises(ValidationError, match="need each other"):
        GatewaySettings(https_cert="a.pem")
