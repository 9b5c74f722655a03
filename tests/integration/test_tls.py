"""TLS of servers, clients and the services among themselves, with certificates made for the test."""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from structlog.testing import capture_logs

from saccade import ApiError, AsyncClient
from saccade.credentials import tls_credentials
from saccade.ingest.v1 import ingest_service_pb2 as ingest
from saccade.keys import create_key
from services.common.access.credentials import PLAIN, PeerCredentials
from services.common.access.settings import PeerSettings
from services.common.embedder_client import EmbedderClient
from services.common.errors import FailedPrecondition, Unavailable
from services.common.rpc import Server
from services.common.settings import GrpcSettings
from services.gateway.backends import INGEST, Backends
from services.gateway.problems import Problem
from tests.integration.access_support import Authority, Services, serving

PEER: Final = "ingest.saccade.internal"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority()
    for name in ("server", PEER, "stranger"):
        made.write(tmp_path, name)
    return made


def tls(folder: Path, *, mutual: bool = False, **more: Any) -> Callable[[], GrpcSettings]:
    settings: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "drain_s": 1,
        "tls_cert": str(folder / "server.pem"),
        "tls_key": str(folder / "server.key"),
        "tls_client_ca": str(folder / "ca.pem") if mutual else "",
    }
    return lambda: GrpcSettings(**(settings | more))


def peer(folder: Path, cert: str = "", key: str = "") -> PeerCredentials:
    files = {"cert": str(folder / f"{cert}.pem"), "cert_key": str(folder / f"{cert}.key")} if cert else {}
    return PeerCredentials(ca=str(folder / "ca.pem"), key=key, **files)


async def ask(services: Services, credentials: PeerCredentials) -> None:
    """One call as ingest and query make it; raises what they would get."""
    client = EmbedderClient(f"dns:///127.0.0.1:{services.ports['EmbedderService']}", timeout_s=30, peer=credentials)
    try:
        await client.get_model()
    finally:
        await client.close()


async def served_certificate(services: Services) -> bytes:
    """The certificate that a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("127.0.0.1", services.ports["EmbedderService"], ssl=context)
    try:
        shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
    return shown


async def test_only_tls_is_spoken_and_only_to_those_who_know_the_authority(
    tmp_path: Path, authority: Authority
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    Authority("other").write(other, "server")
    async with serving(tls(tmp_path)) as services:
        await ask(services, peer(tmp_path))
        for wrong in (PLAIN, peer(other)):
            with pytest.raises(Unavailable):
                await ask(services, wrong)


async def test_mutual_tls_lets_in_who_has_a_certificate(tmp_path: Path, authority: Authority) -> None:
    async with serving(tls(tmp_path, mutual=True)) as services:
        await ask(services, peer(tmp_path, "stranger"))
        with pytest.raises(Unavailable):
            await ask(services, peer(tmp_path))
        foreign = tmp_path / "foreign"
        foreign.mkdir()
        Authority("foreign").write(foreign, "stranger")
        pair = {"cert": str(foreign / "stranger.pem"), "cert_key": str(foreign / "stranger.key")}
        with pytest.raises(Unavailable):
            await ask(services, PeerCredentials(ca=str(tmp_path / "ca.pem"), **pair))


async def test_services_know_each_other_by_certificate_or_by_secret(tmp_path: Path, authority: Authority) -> None:
    keys_file, secret = tmp_path / "keys.json", "s" * 40
    key, _ = create_key(keys_file, "someone", scope="read", collections=["*"])
    access = {"auth": "keys", "keys_file": str(keys_file), "peer_key": secret, "tls_peer_names": f"x, {PEER}"}
    async with serving(tls(tmp_path, mutual=True, **access)) as services:
        await ask(services, peer(tmp_path, PEER))
        await ask(services, peer(tmp_path, "stranger", secret))
        await ask(services, peer(tmp_path, "stranger", key))
        assert services.reached == ["GetModel"] * 3
        for wrong in (peer(tmp_path, "stranger"), peer(tmp_path, PEER, "w" * 40)):
            with pytest.raises(Unavailable, match="does not know this service"):
                await ask(services, wrong)
        assert services.reached == ["GetModel"] * 3

        # A peer may embed, and look into no collection.
        shown = {"certificate": peer(tmp_path, PEER), "secret": peer(tmp_path, "stranger", secret)}
        for name, credentials in shown.items():
            channel = tls_credentials(credentials.ca, cert=credentials.cert, cert_key=credentials.cert_key)
            address = f"127.0.0.1:{services.ports['IngestService']}"
            async with AsyncClient(ingest=address, credentials=channel, key=credentials.key, timeout_s=30) as client:
                with pytest.raises(ApiError) as caught:
                    await client.get_image("c", "i")
                assert caught.value.code == grpc.StatusCode.PERMISSION_DENIED, name
                assert [each async for each in client.list_collections()] == []
                with pytest.raises(ApiError) as caught:
                    await client.delete_image("c", "i")
                assert caught.value.code == grpc.StatusCode.PERMISSION_DENIED, name


async def test_a_renewed_certificate_is_shown_to_new_connections(tmp_path: Path, authority: Authority) -> None:
    async with serving(tls(tmp_path)) as services:
        before = await served_certificate(services)
        assert await served_certificate(services) == before
        # Half of a renewal: a certificate whose key has not arrived yet.
        cert, key = authority.issue("server")
        (tmp_path / "server.pem").write_bytes(cert)
        with capture_logs() as logs:
            assert await served_certificate(services) == before
            assert await served_certificate(services) == before
        assert any("broken" in log["event"] for log in logs)
        (tmp_path / "server.key").write_bytes(key)
        after = await served_certificate(services)
        assert after != before
        await ask(services, peer(tmp_path))

        # Another authority altogether: who still trusts the old one is not served any more.
        Authority("next").write(tmp_path, "server")
        assert await served_certificate(services) not in (before, after)
        await ask(services, peer(tmp_path))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tls_key": ""}, "SACCADE_TLS_KEY"),
        ({"tls_cert": ""}, "SACCADE_TLS_CERT"),
        ({"tls_cert": "", "tls_key": "", "tls_client_ca": "ca.pem"}, "SACCADE_TLS_CLIENT_CA"),
        ({"tls_key": "stranger.key"}, "not that of the certificate"),
        ({"tls_cert": "none.pem"}, "none"),
        ({"tls_cert": "server.key"}, "TLS"),
        ({"tls_client_ca": "server.key"}, "TLS"),
        ({"tls_peer_names": "x"}, "SACCADE_TLS_CLIENT_CA"),
    ],
)
async def test_files_that_do_not_fit_stop_the_start(
    tmp_path: Path, authority: Authority, change: dict[str, str], named: str
) -> None:
    files: dict[str, Any] = {name: str(tmp_path / value) if "." in value else value for name, value in change.items()}
    with pytest.raises(FailedPrecondition, match=named):
        Server(tls(tmp_path, **files)())


def test_what_a_service_shows_is_read_from_its_settings(tmp_path: Path, authority: Authority) -> None:
    settings = PeerSettings.model_validate({"peer_key": "new, old", "peer_ca": str(tmp_path / "ca.pem")})
    assert settings.peer_credentials.key == "new"
    assert "new" not in repr(settings.peer_credentials)
    assert settings.peer_credentials.channel_credentials() is not None
    assert PLAIN.channel_credentials() is None
    for wrong in (
        PeerCredentials(cert="x", cert_key="y"),
        PeerCredentials(ca=str(tmp_path / "ca.pem"), cert="x"),
        PeerCredentials(ca=str(tmp_path / "none.pem")),
    ):
        with pytest.raises(FailedPrecondition):
            wrong.channel_credentials()


async def test_the_gateway_calls_over_tls_and_shows_what_its_caller_shows(tmp_path: Path, authority: Authority) -> None:
    keys_file = tmp_path / "keys.json"
    key, _ = create_key(keys_file, "someone", scope="read", collections=["*"])
    access = {"auth": "keys", "keys_file": str(keys_file), "tls_peer_names": PEER}
    async with serving(tls(tmp_path, mutual=True, **access)) as services:
        targets = {
            name.removesuffix("Service").lower(): f"dns:///127.0.0.1:{port}" for name, port in services.ports.items()
        }
        backends = Backends(**targets, peer=peer(tmp_path, "stranger"))
        try:
            assert await backends.readiness() == dict.fromkeys(("embedder", "ingest", "query"), True)
            request = ingest.GetImageRequest(collection="c", id="i")
            await backends.call(INGEST, "GetImage", request, 30, (("authorization", f"Bearer {key}"),))
            with pytest.raises(Problem) as caught:
                await backends.call(INGEST, "GetImage", request, 30)
            assert caught.value.status == 401
            assert caught.value.reason == "CREDENTIAL_MISSING"
        finally:
            await backends.close()
