"""One cluster for all tests of single faults, its object store on a small disk, its engines behind relays."""

import os
from collections.abc import Iterator

import pytest

from benchmarks.cluster import Cluster
from services.stack.engines import EngineMissing
from tests.engines import not_installed
from tests.faults.support import SETTINGS, Callers, Disk, small_disk

QUICK = bool(os.environ.get("QUICK"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/faults" in item.path.as_posix():
            item.add_marker(pytest.mark.timeout(900))
            if QUICK and item.get_closest_marker("thorough"):
                item.add_marker(pytest.mark.skip("left out where QUICK is set"))


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk | None]:
    with small_disk(tmp_path_factory.mktemp("disk") / "objects", 50) as made:
        yield made


@pytest.fixture(scope="session")
def full_disk(disk: Disk | None) -> Disk:
    if disk is None:
        pytest.skip("mounting a small disk needs root")
    return disk


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, disk: Disk | None) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    objects = disk.path / "minio" if disk else None
    try:
        described = Cluster(
            folder, settings=SETTINGS, proxied=("milvus", "minio", "embedder", "ingest"), objects_dir=objects
        )
    except EngineMissing as exc:
        not_installed(str(exc))
    with described as running:
        yield running


@pytest.fixture(scope="session")
def all_callers(cluster: Cluster) -> Iterator[Callers]:
    with cluster.client() as client:
        callers = Callers(cluster, client)
        callers.begin()
        yield callers


@pytest.fixture
def callers(all_callers: Callers, cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Callers]:
    """Callers of a cluster that is whole; what its processes wrote is kept where a test fails."""
    failed = request.session.testsfailed
    yield all_callers
    for link in cluster.links.values():
        link.heal()
    if request.session.testsfailed > failed:
        cluster.keep_logs()
