from collections.abc import AsyncIterator, Iterator

import pytest

from saccade import AsyncClient, Client
from tests.unit.saccade.fakes import FakeServices


@pytest.fixture
def services() -> Iterator[FakeServices]:
    with FakeServices().serve() as fake:
        yield fake


@pytest.fixture
def client(services: FakeServices) -> Iterator[Client]:
    address = services.address
    with Client(embedder=address, ingest=address, query=address, timeout_s=10) as client:
        yield client


@pytest.fixture
async def async_client(services: FakeServices) -> AsyncIterator[AsyncClient]:
    address = services.address
    async with AsyncClient(embedder=address, ingest=address, query=address, timeout_s=10) as client:
        yield client
