"""Hours of ordinary load, and whether anything grows meanwhile: `python -m benchmarks.soak`.

First the mix's capacity is measured with as much as the callers can offer; then 70 % of it is offered for the time
asked for, while memory, threads, files and sockets of every process are sampled. As many images are removed as are
stored, so that what is kept stays as it is. The first third is warm-up. Over the rest nothing of a service may grow by
more than its tolerance, by a robust slope (Theil and Sen):

rss_mib      5 % of its median, at least 24 MiB       threads      at least 4, or 10 %
fds          at least 8, or 10 %                      sockets      at least 8, or 10 %

Milvus and MinIO are sampled and reported too; they are not ours, and whether they grow does not count. The report is
printed and written as one flat JSON object:

capacity_per_s, offered_per_s, done_per_s     calls of the mix
minutes, samples                              how long, and how often every process was looked at
growth.PROCESS.QUANTITY.median|grown|allowed  of every process
growing                                       quantities of services that grew beyond that
hung, unexplained                             as in benchmarks.chaos
failed_fraction                               share of the calls that ended in an error
calls.KIND.*                                  what benchmarks.load.tally tells of each kind of call
ok                                            nothing grew, nothing hung, and at most 1 % of the calls failed
"""

import json
import os
import random
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import grpc
import httpx
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.cluster import ENGINES, Cluster
from benchmarks.growth import Growth, grown
from benchmarks.load import Crew, Ledger, offer, picture, tally
from saccade import ApiError, Client, NewImage, filters
from saccade.requests import Mode
from services.stack.engines import EngineMissing
from services.stack.processes import Process

__all__ = ["Mix", "Watch", "main", "usage"]

COLLECTION: Final = "soak"
CALL_S: Final = 20.0
CALLERS: Final = 16
SHARE: Final = 0.7
IMAGES: Final = 400
"""Images that are there at any time, about."""
WARM_UP: Final = 1 / 3
TOLERANCES: Final = {"rss_mib": (0.05, 24.0), "threads": (0.1, 4.0), "fds": (0.1, 8.0), "sockets": (0.1, 8.0)}
MAX_FAILED: Final = 0.01
# Kinds of calls by how often they come, of 20: 12 reads, and as many images stored as removed.
KINDS: Final = (
    *("whole", "segment", "hybrid", "hybrid", "tags", "like", "filtered", "exact", "picture", "http", "get", "list"),
    *("create", "create", "create", "delete", "delete", "delete", "update", "update"),
)
TEXTS: Final = ("red", "a green thing", "blue and pink", "a yellow thing", "orange", "purple")
_MODES: Final[dict[str, Mode]] = {"whole": "whole", "segment": "segment", "hybrid": "hybrid"}


class Mix:
    """Calls of every kind on one collection, whose size stays about as it is. Safe for use by several threads."""

    def __init__(self, client: Client, gateway: str, ledger: Ledger) -> None:
        """Call `client` and the gateway at an address, and note it in `ledger`."""
        self._client = client
        self._web = httpx.Client(base_url=gateway, timeout=CALL_S)
        self._ledger = ledger
        self._ids: deque[str] = deque()
        self._stored = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections to the gateway."""
        self._web.close()

    def fill(self) -> None:
        """Store what is there from the beginning."""
        new = (NewImage(picture(i), id=self._new_id()) for i in range(IMAGES))
        for result in self._client.stream_images(new, collection=COLLECTION, wait_for="segmented"):
            if result.error:
                raise result.error
            self._add(result.item.id)

    def do(self, index: int) -> None:
        """One call; which, and of what, the number decides."""
        rng = random.Random(index)  # noqa: S311 - a mix that can be repeated
        kind = rng.choice(KINDS)
        image_id = self._oldest() if kind == "delete" else self._young(rng)
        if image_id is None:  # not enough there to remove one
            kind, image_id = "whole", ""
        make = self._call(kind, image_id, rng)
        with suppress(ApiError):
            self._ledger.call(kind, CALL_S, make)

    def _call(self, kind: str, image_id: str, rng: random.Random) -> Callable[[], object]:
        client, text = self._client, rng.choice(TEXTS)
        if kind in _MODES:
            return lambda: client.search(COLLECTION, text=text, mode=_MODES[kind])
        calls: dict[str, Callable[[], object]] = {
            "tags": lambda: client.search(COLLECTION, text="red", mode="tags"),
            "like": lambda: client.search(COLLECTION, like=image_id),
            "filtered": lambda: client.search(COLLECTION, text=text, filter=filters.metadata("even", equals=True)),
            "exact": lambda: client.search(COLLECTION, text=text, exact=True),
            "picture": lambda: client.search(COLLECTION, image=picture(rng.randrange(1_000))),
            "http": lambda: self._post(text),
            "get": lambda: client.get_image(COLLECTION, image_id),
            "list": lambda: client.get_collection(COLLECTION),
            "create": self._create,
            "delete": lambda: client.delete_image(COLLECTION, image_id, allow_missing=True),
            "update": lambda: client.update_image(COLLECTION, image_id, title=text),
        }
        return calls[kind]

    def _create(self) -> None:
        image_id = self._new_id()
        number = int(image_id.removeprefix("soak-"))
        image = NewImage(picture(number), id=image_id, metadata={"even": number % 2 == 0})
        self._client.create_image(COLLECTION, image)
        self._add(image_id)

    def _post(self, text: str) -> None:
        try:
            answer = self._web.post(
                f"/v1/collections/{COLLECTION}/search", json={"parts": [{"text": text}], "top_k": 5}
            )
        except httpx.HTTPError as exc:
            raise ApiError(grpc.StatusCode.UNAVAILABLE, str(exc) or type(exc).__name__) from exc
        if answer.status_code in {httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE}:
            raise ApiError(grpc.StatusCode.UNAVAILABLE, answer.text)
        if answer.status_code != httpx.codes.OK:
            raise ApiError(grpc.StatusCode.UNKNOWN, f"{answer.status_code}: {answer.text}")

    def _new_id(self) -> str:
        with self._lock:
            self._stored += 1
            return f"soak-{self._stored:07d}"

    def _add(self, image_id: str) -> None:
        with self._lock:
            self._ids.append(image_id)

    def _oldest(self) -> str | None:
        with self._lock:
            return self._ids.popleft() if len(self._ids) > IMAGES // 2 else None

    def _young(self, rng: random.Random) -> str:
        # Far from those that are removed next.
        with self._lock:
            return self._ids[-rng.randint(1, IMAGES // 4)]


def usage(pid: int) -> dict[str, float]:
    """What a process of Linux uses now: rss_mib, threads, fds, sockets."""
    proc = Path("/proc") / str(pid)
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    links = []
    for entry in (proc / "fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            links.append(entry.readlink().name)
    return {
        "rss_mib": int(status["VmRSS"].split()[0]) / 1024,
        "threads": float(status["Threads"]),
        "fds": float(len(links)),
        "sockets": float(sum(link.startswith("socket:") for link in links)),
    }


@dataclass
class Watch:
    """Samples of every process, taken by one thread."""

    processes: dict[str, Process]
    every_s: float
    times: list[float] = field(default_factory=list)
    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def run(self, stop: threading.Event) -> None:
        """Look again and again until told to stop."""
        began = time.monotonic()
        while not stop.wait(self.every_s):
            self.times.append(time.monotonic() - began)
            for name, process in self.processes.items():
                for quantity, value in usage(process.pid).items():
                    self.values.setdefault((name, quantity), []).append(value)

    def growth(self) -> dict[tuple[str, str], Growth]:
        """By process and quantity, what became of it after the warm-up."""
        first = int(len(self.times) * WARM_UP)
        return {
            (name, quantity): grown(
                self.times[first:], values[first:], fraction=TOLERANCES[quantity][0], least=TOLERANCES[quantity][1]
            )
            for (name, quantity), values in self.values.items()
        }


def run(minutes: float, folder: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """One run; its figures."""
    ledger = Ledger()
    with Cluster(folder) as cluster, cluster.client(CALL_S) as client, Crew() as watchers:
        client.create_collection(COLLECTION)
        mix = Mix(client, cluster.gateways[0], ledger)
        try:
            mix.fill()
            trial_s = min(60.0, max(10.0, minutes * 6))
            stop = threading.Event()
            capacity = offer(mix.do, rate=float("inf"), seconds=trial_s, callers=CALLERS, stop=stop)
            tell(f"capacity: {capacity:.1f} calls per second; {SHARE:.0%} of it for {minutes:g} minutes")
            ledger.samples.clear()
            watch = Watch(dict(cluster.processes), every_s=min(5.0, max(0.5, minutes / 6)))
            watchers.add(lambda _: watch.run(watchers.stop), 1, "watch")
            done = offer(mix.do, rate=SHARE * capacity, seconds=minutes * 60, callers=4 * CALLERS, stop=stop)
            watchers.stop.set()
            watchers.join(timeout_s=30)
        finally:
            mix.close()
        samples = ledger.all_samples()
        growth = watch.growth()
        growing = sorted(
            f"{name}.{quantity}"
            for (name, quantity), found in growth.items()
            if name not in ENGINES and not found.is_fine
        )
        if growing:
            cluster.keep_logs()
    failed = sum(sample.code != "OK" for sample in samples)
    figures: dict[str, Any] = {
        "minutes": minutes,
        "samples": len(watch.times),
        "capacity_per_s": round(capacity, 2),
        "offered_per_s": round(SHARE * capacity, 2),
        "done_per_s": round(done, 2),
        "growing": growing,
        "hung": sum(sample.hung for sample in samples),
        "unexplained": sum(sample.code in {"INTERNAL", "UNKNOWN"} for sample in samples),
        "failed_fraction": round(failed / max(1, len(samples)), 4),
    }
    for (name, quantity), found in growth.items():
        numbers = {"median": found.median, "grown": found.grown, "allowed": found.allowed}
        figures |= {f"growth.{name}.{quantity}.{what}": round(value, 2) for what, value in numbers.items()}
    for kind, told in tally(samples).items():
        figures |= {f"calls.{kind}.{what}": value for what, value in told.items()}
    figures["ok"] = not growing and not figures["hung"] and figures["failed_fraction"] <= MAX_FAILED
    return figures


def table_of(figures: dict[str, Any]) -> Table:
    """What became of each quantity, for people."""
    table = Table("process", "quantity", "median", "grown by", "allowed", "")
    for key in figures:
        if key.startswith("growth.") and key.endswith(".median"):
            _, name, quantity, _ = key.split(".")
            stem = key.removesuffix(".median")
            state = "GROWS" if f"{name}.{quantity}" in figures["growing"] else ""
            numbers = (f"{figures[f'{stem}.{what}']:.1f}" for what in ("median", "grown", "allowed"))
            table.add_row(name, quantity, *numbers, "not ours" if name in ENGINES else state)
    return table


def main(
    minutes: Annotated[float, typer.Option(help="How long; 0: what MINUTES says, or 30.")] = 0.0,
    out: Annotated[Path, typer.Option(help="Where the report is written as JSON.")] = Path("build/soak.json"),
) -> None:
    """Offer ordinary load for a long time, and see whether anything grows."""
    console = Console(width=140)
    with tempfile.TemporaryDirectory(prefix="saccade-soak-") as folder:
        try:
            figures = run(
                minutes or float(os.environ.get("MINUTES") or 30),
                Path(folder),
                lambda line: console.print(line, highlight=False),
            )
        except EngineMissing as exc:
            console.print(str(exc))
            raise typer.Exit(2) from exc
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=2) + "\n")
    console.print(table_of(figures))
    for name in ("capacity_per_s", "done_per_s", "hung", "unexplained", "failed_fraction", "growing"):
        console.print(f"{name}: {figures[name]}")
    console.print(f"written: {out}")
    raise typer.Exit(0 if figures["ok"] else 1)


if __name__ == "__main__":
    typer.run(main)
