"""Every address of the API with every kind of credential; the addresses are those of the OpenAPI document."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from saccade.common.v1 import access_pb2
from saccade.keys import create_key, revoke_key
from services.common.access.authenticator import Authenticator
from services.common.access.keys import KeyRing
from services.gateway.app import routed
from services.gateway.backends import SERVICES, Backends
from services.gateway.openapi import openapi_document
from services.gateway.settings import GatewaySettings

from .conftest import Gateway, running_gateway

DOCUMENT: Final = openapi_document()
METHODS: Final = {method.name: method for service in SERVICES for method in service.methods}
SCOPES: Final = {"read": 1, "write": 2, "admin": 3}
MINE: Final = "mine"

# Addresses that are no calls, and why nobody needs a credential there.
OPEN: Final = {
    "/": "the page, which asks for a key itself",
    "/docs": "the API page",
    "/openapi.json": "the contract, which is public",
    "/healthz": "tells only that the process answers",
    "/readyz": "tells only which services are ready",
    "/objects/{key:path}": "needs a signature in the address",
}
# Files that are the same for everyone.
FOLDERS: Final = {("/static", ""), ("/docs/ui", "")}


@dataclass(frozen=True)
class Operation:
    verb: str
    path: str
    document: dict[str, Any]

    @property
    def access(self) -> str:
        return str(self.document["x-access"])

    @property
    def names_collection(self) -> bool:
        return "{collection}" in self.path or (self.path, self.verb) == ("/v1/collections", "POST")

    @property
    def is_shared(self) -> bool:
        """Whether it changes what belongs to all collections. A job's own collection is the service's to look at."""
        return SCOPES[self.access] > 1 and not self.names_collection and not self.path.startswith("/v1/jobs/")

    @property
    def address(self) -> str:
        return self.path.format(collection=MINE, id="one", name="words")

    @property
    def request(self) -> dict[str, Any]:
        content = self.document.get("requestBody", {}).get("content", {})
        if "application/x-ndjson" in content:
            return {"content": b"", "headers": {"content-type": "application/x-ndjson"}}
        if "application/json" not in content:
            return {}
        return {"json": {"name": MINE} if self.path == "/v1/collections" else {}}


def operations() -> list[Operation]:
    return [
        Operation(verb.upper(), path, document)
        for path, verbs in DOCUMENT["paths"].items()
        for verb, document in verbs.items()
    ]


@dataclass(frozen=True)
class Credential:
    """A header, and which operations it is good for."""

    authorization: str
    scope: int = 0
    collections: str = ""

    def expected(self, operation: Operation) -> int:
        if not self.scope:
            return 401
        if self.scope < SCOPES[operation.access]:
            return 403
        if self.collections == "*":
            return 200
        denied = operation.is_shared or (operation.names_collection and self.collections != MINE)
        return 403 if denied else 200


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def credentials(keys_file: Path) -> dict[str, Credential]:
    def made(name: str, scope: str, collections: str, **more: Any) -> Credential:
        key, _ = create_key(keys_file, name, scope=scope, collections=[collections], **more)
        return Credential(f"Bearer {key}", SCOPES[scope], collections)

    past = datetime.now(UTC) - timedelta(seconds=1)
    expired = made("expired", "admin", "*", expires_at=past)
    revoked = made("revoked", "admin", "*")
    revoke_key(keys_file, "revoked")
    good = {
        f"{scope} of {where}": made(f"{scope}-{place}", scope, collections)
        for scope in SCOPES
        for where, place, collections in (("everything", "all", "*"), ("mine", "mine", MINE), ("another", "other", "o"))
    }
    return good | {
        "none": Credential(""),
        "wrong": Credential(f"Bearer sk_{'0' * 12}_{'0' * 64}"),
        "one letter off": Credential(good["admin of everything"].authorization[:-1] + "x"),
        "expired": Credential(expired.authorization),
        "revoked": Credential(revoked.authorization),
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def strict(
    tmp_path_factory: pytest.TempPathFactory, credentials: dict[str, Credential], keys_file: Path
) -> AsyncIterator[Gateway]:
    """A gateway that knows the credentials."""
    authenticator = Authenticator(keys=KeyRing(str(keys_file)))
    async with running_gateway(tmp_path_factory.mktemp("objects"), authenticator=authenticator) as gateway:
        yield gateway


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("operation", operations(), ids=lambda each: f"{each.verb} {each.path}")
async def test_an_operation_answers_those_who_may(
    strict: Gateway, credentials: dict[str, Credential], operation: Operation
) -> None:
    found = {name: await status(strict, operation, credential) for name, credential in credentials.items()}
    assert found == {name: credential.expected(operation) for name, credential in credentials.items()}


async def status(gateway: Gateway, operation: Operation, credential: Credential) -> int:
    """The answer's status; what is refused must have reached no service, and what is not, with its credential."""
    gateway.recorder.metadata.clear()
    request = operation.request
    headers = {**request.pop("headers", {})}
    if credential.authorization:
        headers["authorization"] = credential.authorization
    answer = await gateway.http.request(operation.verb, operation.address, headers=headers, **request)
    shown = [each.get("authorization") for each in gateway.recorder.metadata]
    assert shown == ([credential.authorization] if answer.status_code == 200 else [])
    assert ("www-authenticate" in answer.headers) == (answer.status_code == 401)
    return answer.status_code


@pytest.mark.parametrize("operation", operations(), ids=lambda each: f"{each.verb} {each.path}")
def test_the_document_says_what_the_contract_says(operation: Operation) -> None:
    method = METHODS[operation.document["operationId"].removesuffix("ByGet")]
    assert SCOPES[operation.access] == method.GetOptions().Extensions[access_pb2.access]
    assert operation.document["security"] == [{"bearer": []}]
    # Whatever changes something needs more than to read. Jobs and images are asked for by POST where they have bodies.
    if operation.verb in ("PUT", "PATCH", "DELETE"):
        assert operation.access != "read"


async def test_every_address_is_in_the_document_or_known_to_be_open(tmp_path: Path) -> None:
    backends = Backends(embedder="dns:///127.0.0.1:1", ingest="dns:///127.0.0.1:1", query="dns:///127.0.0.1:1")
    app = routed(GatewaySettings(objects_url=f"file://{tmp_path}"), backends, None)
    await backends.close()
    documented = {(operation.path, operation.verb) for operation in operations()}
    found = served(app.routes)
    assert {(path, verb) for path, verb in found if path not in OPEN} == documented | FOLDERS
    assert {path for path, _ in found if path in OPEN} == set(OPEN)


def served(routes: Sequence[Any]) -> set[tuple[str, str]]:
    """Path and verb of all routes; those of folders have no verb."""
    found: set[tuple[str, str]] = set()
    for route in routes:
        if included := getattr(route, "original_router", None):
            found |= served(included.routes)
        else:
            found |= {(route.path, verb) for verb in getattr(route, "methods", {""})}
    return found
