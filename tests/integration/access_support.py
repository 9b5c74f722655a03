"""The three services as servers of their own, real in everything but what stands behind their calls.

Contracts, interceptors, identity and TLS are those of the services; each call is answered by a handler that tells
that it was reached.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from saccade.embedder.v1 import embedder_service_pb2, embedder_service_pb2_grpc
from saccade.ingest.v1 import ingest_service_pb2, ingest_service_pb2_grpc
from saccade.query.v1 import query_service_pb2, query_service_pb2_grpc
from services.common.rpc import Server
from services.common.settings import GrpcSettings

__all__ = ["METHODS", "Authority", "Services", "path_of", "serving"]

_CONTRACTS: Final[tuple[tuple[ModuleType, ModuleType, str], ...]] = (
    (embedder_service_pb2, embedder_service_pb2_grpc, "EmbedderService"),
    (ingest_service_pb2, ingest_service_pb2_grpc, "IngestService"),
    (query_service_pb2, query_service_pb2_grpc, "QueryService"),
)
DEADLINE_S: Final = 60

METHODS: Final[tuple[MethodDescriptor, ...]] = tuple(
    method for module, _, name in _CONTRACTS for method in module.DESCRIPTOR.services_by_name[name].methods
)
"""Every call of the contracts."""

Answer = Callable[[MethodDescriptor], Message]


def path_of(method: MethodDescriptor) -> str:
    """As gRPC spells it."""
    service: Any = method.containing_service
    return f"/{service.full_name}/{method.name}"


class Services:
    """Servers that run. `reached` are the calls whose handler was entered, by name."""

    def __init__(self, ports: dict[str, int], reached: list[str], channel: Callable[[int], grpc.aio.Channel]) -> None:
        self.ports = ports
        self.reached = reached
        self.channels = {name: channel(port) for name, port in ports.items()}

    async def call(
        self, method: MethodDescriptor, request: Message, authorization: Sequence[str] = ()
    ) -> Message | None:
        """Make a call; the answer, or the last one of a stream."""
        service: Any = method.containing_service
        metadata = tuple(("authorization", each) for each in authorization)
        coding: dict[str, Any] = {
            "request_serializer": lambda message: message.SerializeToString(),
            "response_deserializer": GetMessageClass(method.output_type).FromString,
        }
        channel = self.channels[service.name]
        if method.client_streaming:
            stream: Any = channel.stream_stream(path_of(method), **coding)
            last = None
            async for answer in stream(iter([request]), metadata=metadata, timeout=DEADLINE_S):
                last = answer
            return last
        unary: Any = channel.unary_unary(path_of(method), **coding)
        made: Message = await unary(request, metadata=metadata, timeout=DEADLINE_S)
        return made


@asynccontextmanager
async def serving(
    settings: Callable[[], GrpcSettings],
    *,
    answer: Answer = lambda method: GetMessageClass(method.output_type)(),
    channel: Callable[[int], grpc.aio.Channel] = lambda port: grpc.aio.insecure_channel(f"127.0.0.1:{port}"),
) -> AsyncIterator[Services]:
    """Run a server for each contract."""
    reached: list[str] = []
    ports: dict[str, int] = {}
    async with AsyncExitStack() as cleanup:
        for module, module_grpc, name in _CONTRACTS:
            server = Server(settings())
            descriptor = module.DESCRIPTOR.services_by_name[name]
            register = getattr(module_grpc, f"add_{name}Servicer_to_server")
            server.add(descriptor, register, _servicer(module_grpc, descriptor, reached, answer))
            ports[name] = await server.start()
            cleanup.push_async_callback(server.stop)
            await server.set_ready(True)
        services = Services(ports, reached, channel)
        for each in services.channels.values():
            cleanup.push_async_callback(each.close)
        yield services


def _servicer(module: ModuleType, descriptor: ServiceDescriptor, reached: list[str], answer: Answer) -> Any:
    def unary(method: MethodDescriptor) -> Any:
        async def handle(_self: Any, _request: Message, _context: Any) -> Message:
            reached.append(method.name)
            return answer(method)

        return handle

    def stream(method: MethodDescriptor) -> Any:
        async def handle(_self: Any, requests: AsyncIterator[Message], _context: Any) -> AsyncIterator[Message]:
            async for _ in requests:
                reached.append(method.name)
                yield answer(method)

        return handle

    made = {each.name: (stream if each.client_streaming else unary)(each) for each in descriptor.methods}
    return type("Servicer", (getattr(module, f"{descriptor.name}Servicer"),), made)()


class Authority:
    """Makes certificates, each with its key, as PEM."""

    def __init__(self, name: str = "authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.pem = self._sign(self._name, self._key, authority=True)

    def issue(self, name: str, *hosts: str) -> tuple[bytes, bytes]:
        """A certificate for DNS names (`name` too) and 127.0.0.1, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"common {name}")])
        pem = self._sign(subject, key, hosts=(name, *hosts))
        return pem, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def write(self, folder: Path, name: str) -> None:
        """`NAME.pem` and `NAME.key` of a new certificate, and `ca.pem`; each replaced in one step."""
        cert, key = self.issue(name)
        for file, content in ((f"{name}.pem", cert), (f"{name}.key", key), ("ca.pem", self.pem)):
            (folder / "next").write_bytes(content)
            (folder / "next").replace(folder / file)

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        *,
        hosts: Iterable[str] = (),
        authority: bool = False,
    ) -> bytes:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        names = [*map(x509.DNSName, hosts), x509.IPAddress(IPv4Address("127.0.0.1"))]
        if not authority:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)
