"""The network to the embedder and to the engines, hurt in every way; then it heals, and nobody restarts anything."""

import pytest

from benchmarks.cluster import Cluster
from benchmarks.proxy import Fault
from tests.faults.support import PASSING, Callers

LINKS = ("milvus", "minio", "embedder", pytest.param("ingest", marks=pytest.mark.thorough))
# Each takes more than a minute: it is keepalive and timeouts that find out.
DYING = ("milvus", *(pytest.param(link, marks=pytest.mark.thorough) for link in ("minio", "embedder", "ingest")))
# What everything has to go on under, if slowly.
BEARABLE = (Fault.LATENCY, Fault.SLOW)


def test_everything_works_to_begin_with(callers: Callers) -> None:
    assert callers.all_at_once() == []
    callers.works_again()


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("fault", [Fault.STALL, Fault.RESET])
def test_a_cut_is_told_and_passes(callers: Callers, cluster: Cluster, link: str, fault: Fault) -> None:
    cluster.links[link].hurt(fault)
    errors = callers.all_at_once()
    assert errors
    assert {error.code for error in errors} <= PASSING
    cluster.links[link].heal()
    callers.works_again()


@pytest.mark.parametrize("link", DYING)
def test_connections_that_died_unseen_are_replaced(callers: Callers, cluster: Cluster, link: str) -> None:
    """A firewall has forgotten them: nothing comes back on them, ever; new ones work."""
    cluster.links[link].hurt(Fault.HALF_OPEN)
    assert {error.code for error in callers.all_at_once()} <= PASSING
    # Not healed: the services have to find out and connect anew.
    callers.works_again()


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("fault", BEARABLE)
@pytest.mark.thorough
def test_a_bad_line_is_only_slow(callers: Callers, cluster: Cluster, link: str, fault: Fault) -> None:
    cluster.links[link].hurt(fault)
    callers.store("durable", deadline_s=60)
    callers.store("segmented", deadline_s=60)
    assert {error.code for error in callers.all_at_once()} <= PASSING
    cluster.links[link].heal()
    callers.works_again()
