"""How the services bear ten times as many calls as they can answer, and bulk work beside people: `make overload`.

A stack of its own on free ports. For searches (hybrid, by text) and for images to store: their capacity by callers that
wait for their answers; then ten times that, by callers that do not wait. Then how long a person's search takes, alone
and while images are streamed in. Callers are processes of their own (benchmarks.offering), on the same machine, so what
they take of it is lost to the services. Written to build/overload.json.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.offering import NUMBER, Offer, Outcome, encode
from saccade import calls
from saccade.channel import BYTES_KEY
from saccade.ingest.v1 import ingest_service_pb2 as ingest
from services.stack import gallery
from services.stack.settings import StackSettings
from services.stack.stack import Stack, temporary_stack

__all__ = ["Load", "growth", "main", "percentile"]

TIMES: Final = 10
"""How many times its capacity a service is offered."""
CALLERS: Final = 2
DEADLINE_S: Final = 5.0
GOODPUT: Final = 0.9
REFUSED_S: Final = 0.05
SLOWER: Final = 2.0
GROWTH: Final = 0.1
# A person and a few colleagues: this share of the capacity.
PEOPLE: Final = 0.3
SERVICES: Final = ("embedder", "ingest", "query")
TEXTS: Final = ("an owl", "a rainbow", "a snowman", "a sailboat", "an umbrella", "a violin", "a hedgehog", "a cactus")
SEARCH: Final = "/saccade.query.v1.QueryService/Search"
CREATE: Final = "/saccade.ingest.v1.IngestService/CreateImage"
STREAM: Final = "/saccade.ingest.v1.IngestService/StreamImages"


@dataclass(frozen=True)
class Load:
    """What was measured of one kind of call: calls a second, and seconds."""

    capacity_per_s: float
    offered_per_s: float
    goodput_per_s: float
    goodput_share: float
    answered_p50_s: float
    answered_p99_s: float
    refused: int
    refused_p50_s: float
    failed: dict[str, int]
    memory_growth: dict[str, float]

    @property
    def held(self) -> bool:
        """Whether it is as it should be."""
        return (
            self.goodput_share >= GOODPUT
            and self.refused_p50_s < REFUSED_S
            and max(self.memory_growth.values(), default=0.0) < GROWTH
        )


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed; 0 of none."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def growth(samples: Sequence[float]) -> float:
    """By what share the last quarter of them lies above the second; the first is for warming up."""
    quarter = len(samples) // 4
    if not quarter:
        return 0.0
    before = mean(samples[quarter : 2 * quarter])
    return mean(samples[-quarter:]) / before - 1 if before else 0.0


class _Memory:
    """Looks at what processes hold, once a second, on a thread of its own."""

    def __init__(self, stack: Stack) -> None:
        self._pids = {name: stack.processes[name].pid for name in SERVICES}
        self._samples: dict[str, list[float]] = {name: [] for name in SERVICES}
        self._end = threading.Event()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look while what is inside runs."""
        thread = threading.Thread(target=self._look)
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            thread.join()

    def growth(self) -> dict[str, float]:
        """By service."""
        return {name: round(growth(samples), 3) for name, samples in self._samples.items()}

    def _look(self) -> None:
        while not self._end.wait(1.0):
            for name, pid in self._pids.items():
                pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
                self._samples[name].append(pages * os.sysconf("SC_PAGE_SIZE"))


class _Callers:
    """Processes that offer calls."""

    def __init__(self, offers: Sequence[Offer]) -> None:
        command = [sys.executable, "-m", "benchmarks.offering"]
        self._running = []
        for offer in offers:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - this package's own
            assert process.stdin  # noqa: S101 - for the type checker
            process.stdin.write(encode(offer) + "\n")
            process.stdin.close()
            process.stdin = None
            self._running.append(process)

    def outcome(self) -> Outcome:
        """What all of them saw, once they are done."""
        total = Outcome()
        for process in self._running:
            out, _ = process.communicate()
            if process.returncode:
                raise RuntimeError("a caller ended badly; its words are above")
            total.add(Outcome(**json.loads(out)))
        return total


class Overload:
    """The measurements, one after the other, on one stack."""

    def __init__(self, stack: Stack, demo_dir: Path, *, seconds: float, images: int, console: Console) -> None:
        self._stack = stack
        self._demo_dir = demo_dir
        self._seconds = seconds
        self._images = images
        self._console = console
        self._numbers = 0

    def run(self) -> dict[str, Any]:
        """All figures."""
        labels = gallery.gallery_labels(self._demo_dir, self._images)
        with self._stack.client() as client:
            gallery.prepare(client, self._demo_dir)
            gallery.load(client, labels, wait="segmented")
            gallery.wait_for_segments(client, timeout_s=600)
            for name in ("singles", "bulk"):
                client.create_collection(name)
        data = labels[0].to_image().content
        picture = data if isinstance(data, bytes) else Path(data).read_bytes()
        searches = tuple(calls.search(gallery.COLLECTION, text=words).request.SerializeToString() for words in TEXTS)
        search = Offer(self._stack.query, SEARCH, searches, "closed", 0.0, timeout_s=DEADLINE_S)
        single = _new_image("singles", picture).SerializeToString()
        told = ((BYTES_KEY, str(len(single))),)
        create = Offer(self._stack.ingest, CREATE, (single,), "closed", 0.0, timeout_s=DEADLINE_S, metadata=told)
        searching = self._loaded("search", search)
        people = self._people(search, searching.capacity_per_s * PEOPLE, picture)
        with self._stack.client(600) as client:
            # With its images goes the work on their segments.
            client.delete_collection("bulk", force=True)
        storing = self._loaded("CreateImage", create)
        return {"search": asdict(searching), "create_image": asdict(storing), "people": people}

    def _loaded(self, name: str, offer: Offer) -> Load:
        """What a service can do, and what it does of ten times that."""
        self._offered(replace(offer, seconds=5.0, workers=4))
        closed = self._offered(replace(offer, seconds=max(10.0, self._seconds / 4), workers=8))
        capacity = len(closed.answered) / closed.seconds
        self._console.print(f"{name}: {capacity:.1f}/s at most, p50 {percentile(closed.answered, 0.5) * 1000:.0f} ms")
        rate = TIMES * capacity
        memory = _Memory(self._stack)
        with memory.watched():
            flood = self._offered(replace(offer, kind="open", seconds=self._seconds, rate=rate / CALLERS), CALLERS)
        goodput = len(flood.answered) / flood.seconds
        load = Load(
            capacity_per_s=capacity,
            offered_per_s=rate,
            goodput_per_s=goodput,
            goodput_share=goodput / capacity,
            answered_p50_s=percentile(flood.answered, 0.5),
            answered_p99_s=percentile(flood.answered, 0.99),
            refused=len(flood.refused),
            refused_p50_s=percentile(flood.refused, 0.5),
            failed=dict(flood.failed),
            memory_growth=memory.growth(),
        )
        self._console.print(
            f"{name}: {goodput:.1f}/s of {rate:.0f}/s offered, {load.goodput_share:.0%} of the capacity"
        )
        return load

    def _people(self, search: Offer, rate: float, picture: bytes) -> dict[str, float]:
        """How long searches take, alone and while images are streamed in."""
        person = replace(search, kind="open", rate=rate, seconds=max(15.0, self._seconds / 2))
        alone = self._offered(person)
        bulk = Offer(
            self._stack.ingest, STREAM, (_streamed("bulk", picture),), "stream", person.seconds + 5, workers=16
        )
        streaming = _Callers([self._numbered(bulk)])
        # The stream has begun, and batches are full.
        time.sleep(3)
        beside = self._offered(person)
        streamed = streaming.outcome()
        figures = {
            "searches_per_s": rate,
            "alone_p50_s": percentile(alone.answered, 0.5),
            "alone_p99_s": percentile(alone.answered, 0.99),
            "beside_bulk_p50_s": percentile(beside.answered, 0.5),
            "beside_bulk_p99_s": percentile(beside.answered, 0.99),
            "beside_bulk_refused": float(len(beside.refused)),
            "bulk_images_per_s": len(streamed.answered) / bulk.seconds,
        }
        slower = figures["beside_bulk_p99_s"] / figures["alone_p99_s"] if alone.answered else 0.0
        self._console.print(f"a person's search beside bulk: p99 {slower:.1f} times as long")
        return figures | {"slower": slower}

    def _offered(self, offer: Offer, callers: int = 1) -> Outcome:
        return _Callers([self._numbered(offer) for _ in range(callers)]).outcome()

    def _numbered(self, offer: Offer) -> Offer:
        self._numbers += 10_000_000
        return replace(offer, first=self._numbers)


def _new_image(collection: str, picture: bytes) -> ingest.CreateImageRequest:
    return ingest.CreateImageRequest(collection=collection, image=ingest.NewImage(id=NUMBER.decode(), data=picture))


def _streamed(collection: str, picture: bytes) -> bytes:
    request = ingest.StreamImagesRequest(key=NUMBER.decode(), create=_new_image(collection, picture))
    return request.SerializeToString()


def _table(report: dict[str, Any]) -> Table:
    table = Table(
        "", "capacity /s", "answered /s at ten times", "share", "answered p99", "refused p50", "memory", "held"
    )
    for name in ("search", "create_image"):
        load = Load(**report[name])
        table.add_row(
            name,
            f"{load.capacity_per_s:.1f}",
            f"{load.goodput_per_s:.1f}",
            f"{load.goodput_share:.0%}",
            f"{load.answered_p99_s * 1000:.0f} ms",
            f"{load.refused_p50_s * 1000:.1f} ms",
            f"{max(load.memory_growth.values(), default=0.0):+.1%}",
            "yes" if load.held else "NO",
        )
    return table


def main(
    seconds: Annotated[float, typer.Option(help="How long ten times the capacity is offered; 0: 120, QUICK: 20.")] = 0,
    images: Annotated[int, typer.Option(help="Images that are searched; 0: 400, QUICK: 100.")] = 0,
    out: Annotated[Path, typer.Option(help="Where the figures are written.")] = Path("build/overload.json"),
) -> None:
    """Offer ten times as many calls as can be answered, and see what becomes of them."""
    quick = bool(os.environ.get("QUICK"))
    seconds = seconds or (20.0 if quick else 120.0)
    images = images or (100 if quick else 400)
    console = Console(width=140)
    with temporary_stack(os.environ) as stack:
        report = Overload(stack, StackSettings().demo_dir, seconds=seconds, images=images, console=console).run()
    report |= {"seconds": seconds, "images": images, "processors": os.cpu_count(), "load_average": os.getloadavg()[0]}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    console.print(_table(report))
    people = report["people"]
    alone_ms, beside_ms = people["alone_p99_s"] * 1000, people["beside_bulk_p99_s"] * 1000
    console.print(
        f"a person's search: p99 {alone_ms:.0f} ms alone, {beside_ms:.0f} ms beside {people['bulk_images_per_s']:.1f} "
        f"images/s ({people['slower']:.1f} times; at most {SLOWER:g})"
    )
    console.print(f"written: {out}")


if __name__ == "__main__":
    typer.run(main)
