import random
import sys
from pathlib import Path

import pytest

from benchmarks.load import Crew
from benchmarks.soak import KINDS, TOLERANCES, Watch, table_of, usage
from services.stack.processes import Process, wait_until

linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads Linux's /proc")


BUSY = """
import socket, sys, threading
files = [open(sys.executable, "rb") for _ in range(int(sys.argv[1]))]
sockets = [socket.socket() for _ in range(int(sys.argv[2]))]
for _ in range(int(sys.argv[3])):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print("ready", flush=True)
threading.Event().wait()
"""


def used(files: int, sockets: int, threads: int) -> dict[str, float]:
    """What a process uses that has so many of each open."""
    process = Process(
        [sys.executable, "-c", BUSY, *map(str, (files, sockets, threads))], ready=lambda: process.output == "ready"
    )
    with process:
        return usage(process.pid)


@linux
def test_usage_sees_files_sockets_and_threads() -> None:
    idle, busy = used(0, 0, 0), used(20, 3, 5)
    assert idle["rss_mib"] > 1
    assert busy["fds"] - idle["fds"] == 23
    assert busy["sockets"] - idle["sockets"] == 3
    assert (idle["threads"], busy["threads"]) == (1, 6)


@linux
def test_a_watch_samples_every_process_until_it_is_stopped() -> None:
    with Process(["sleep", "60"], ready=lambda: True) as process, Crew() as crew:
        watch = Watch({"sleep": process}, every_s=0.01)
        crew.add(lambda _: watch.run(crew.stop), 1, "watch")
        assert wait_until(lambda: len(watch.times) >= 6, timeout_s=30)
        crew.stop.set()
        crew.join(timeout_s=30)
    assert {quantity for _, quantity in watch.values} == set(TOLERANCES)
    assert all(found.is_fine and found.grown == 0 for found in watch.growth().values())


def test_only_what_comes_after_the_warm_up_counts() -> None:
    watch = Watch({}, every_s=1)
    watch.times = [float(i) for i in range(90)]
    rng = random.Random(2)  # noqa: S311 - noise
    warm = [100 + 5 * min(t, 30) + rng.gauss(0, 1) for t in watch.times]
    leak = [100 + 2 * t for t in watch.times]
    watch.values = {("ingest", "rss_mib"): warm, ("query", "rss_mib"): leak}
    growth = watch.growth()
    assert growth["ingest", "rss_mib"].is_fine
    assert not growth["query", "rss_mib"].is_fine


def test_as_many_images_are_stored_as_removed() -> None:
    assert KINDS.count("create") == KINDS.count("delete")


def test_a_table_says_what_grows() -> None:
    stem = "growth.query.threads"
    figures = {f"{stem}.median": 9.0, f"{stem}.grown": 30.0, f"{stem}.allowed": 4.0, "growing": ["query.threads"]}
    assert list(table_of(figures).columns[-1].cells) == ["GROWS"]
