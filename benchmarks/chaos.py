"""Kills of everything, again and again, under load; then whether anything was lost: `python -m benchmarks.chaos`.

Callers store, rename and remove images as sensible clients do while searchers search; embedder, ingest, query, Milvus
and the object store are ended by SIGKILL in an order that a seed decides, and started again some seconds later. Then
everything that was acknowledged is read back. The report is printed and written as one flat JSON object:

kills, killed.NAME            how often processes were killed
images, acknowledged          images that were offered, and those whose storing was acknowledged
lost, duplicates, returned    acknowledged images that are not there as they were, or are there twice; removed ones that
                              came back
hung                          calls that outlived their deadline by more than 2 s
settled_s                     seconds from the last kill and the last caller's end until nothing was pending and the
                              doctor found nothing; -1: not within `settle_limit_s`
searches, searches_failed     searches during the kills, and those that ended in an error before their deadline
unexplained                   calls that ended in INTERNAL or UNKNOWN: errors of ours that say nothing to a caller
calls.KIND.*                  what benchmarks.load.tally tells of each kind of call
ok                            whether every line holds
"""

import hashlib
import json
import os
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.audit import Audit, audit, settle
from benchmarks.cluster import Cluster
from benchmarks.load import Crew, Kept, Ledger, patiently, picture, tally
from saccade import ApiError, Client, NewImage
from saccade.requests import Mode, Wait
from services.stack.engines import EngineMissing

__all__ = ["VICTIMS", "Kill", "Plan", "lines_of", "schedule"]

COLLECTION: Final = "chaos"
VICTIMS: Final = ("embedder", "ingest", "query", "milvus", "minio")
CALL_S: Final = 20.0
"""Deadline of one attempt to store, change or remove."""
SEARCH_S: Final = 10.0
PATIENCE_S: Final = 240.0
"""How long a caller goes on trying for one image."""
SETTLE_LIMIT_S: Final = 120.0
STALLED_S: Final = 900.0
WAITS: Final[tuple[Wait, ...]] = ("durable", "searchable", "segmented")
MODES: Final[tuple[Mode, ...]] = ("whole", "segment", "hybrid")
SEARCHERS: Final = 2
WRITES: Final = ("create", "update", "delete")


@dataclass(frozen=True, slots=True)
class Kill:
    """The end of a process, once a share of the images is done; it stays away for some seconds."""

    at: float
    victim: str
    away_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """How large a run is."""

    images: int
    kills: int
    callers: int
    seed: int


def schedule(seed: int, kills: int) -> list[Kill]:
    """Kills over the first 95 % of a load, in order; the same for a seed. Every victim's share is alike within one."""
    rng = random.Random(seed)  # noqa: S311 - it decides what is killed, and is meant to be repeated
    victims: list[str] = []
    while len(victims) < kills:
        victims += rng.sample(VICTIMS, len(VICTIMS))
    width = 0.95 / kills if kills else 0.0
    return [Kill((i + rng.random()) * width, victims[i], rng.uniform(0.2, 4.0)) for i in range(kills)]


class Storing:
    """Callers that store a number of images between them, and rename or remove some of them."""

    def __init__(self, client: Client, ledger: Ledger, plan: Plan, stop: threading.Event) -> None:
        """Nothing is called yet.

        Attributes:
            allowed: How many images may be begun by now, so that every kill comes while there is load.
        """
        self.allowed = plan.callers
        self._client = client.with_timeout(CALL_S)
        self._ledger = ledger
        self._plan = plan
        self._stop = stop
        self._next = 0
        self._lock = threading.Lock()

    def run(self, _number: int) -> None:
        """Take images until none is left; for one thread."""
        while (index := self._take()) < self._plan.images:
            while index >= self.allowed:
                if self._stop.wait(0.02):
                    return
            # An error that does not pass is in the samples.
            with suppress(ApiError):
                self._one(index)
            self._ledger.finish()

    def _take(self) -> int:
        with self._lock:
            self._next += 1
            return self._next - 1

    def _one(self, index: int) -> None:
        data, image_id, client = picture(index), f"image-{index:06d}", self._client
        kept = Kept(hashlib.sha256(data).hexdigest(), f"picture {index}")
        image = NewImage(data, id=image_id, title=kept.title)
        wait = WAITS[index % len(WAITS)]
        self._change(image_id, "create", lambda: client.create_image(COLLECTION, image, wait_for=wait))
        self._ledger.promise(image_id, kept)
        if index % 7 == 0:
            title = f"renamed {index}"
            self._change(image_id, "update", lambda: client.update_image(COLLECTION, image_id, title=title))
            self._ledger.promise(image_id, Kept(kept.sha256, title))
        if index % 11 == 0:
            self._change(image_id, "delete", lambda: client.delete_image(COLLECTION, image_id, allow_missing=True))
            self._ledger.remove(image_id)

    def _change(self, image_id: str, kind: str, make: Callable[[], object]) -> None:
        try:
            patiently(lambda: self._ledger.call(kind, CALL_S, make), patience_s=PATIENCE_S)
        except ApiError:
            self._ledger.doubt(image_id)
            raise


def search_on(client: Client, ledger: Ledger, stop: threading.Event) -> Callable[[int], None]:
    """What a searcher's thread runs: one search after another, each tried once."""
    quick = client.with_timeout(SEARCH_S)

    def run(number: int) -> None:
        texts = ("red", "a green thing", "blue and pink")
        turn = number
        while not stop.is_set():
            text, mode = texts[turn % len(texts)], MODES[turn % len(MODES)]
            search = partial(quick.search, COLLECTION, text=text, mode=mode, top_k=5)
            pause_s = 0.1
            try:
                ledger.call("search", SEARCH_S, search)
            except ApiError as exc:
                pause_s = exc.retry_after_s or 0.5
            turn += 1
            stop.wait(pause_s)

    return run


def kill_all(cluster: Cluster, plan: Plan, storing: Storing, ledger: Ledger, tell: Callable[[str], None]) -> float:
    """Carry out the schedule, each kill while images are being stored; when the last one was, by time.monotonic."""
    kills = schedule(plan.seed, plan.kills)
    turns = [*(int(kill.at * plan.images) for kill in kills), plan.images]
    last = time.monotonic()
    for number, kill in enumerate(kills):
        storing.allowed = turns[number] + plan.callers
        waited = time.monotonic()
        while ledger.finished < turns[number] or not (ledger.open_calls(*WRITES) or ledger.finished == plan.images):
            if time.monotonic() - waited > STALLED_S:
                raise RuntimeError(f"no progress for {STALLED_S:g} s: {ledger.finished} of {plan.images} images")
            time.sleep(0.01)
        cluster.kill(kill.victim)
        last, done = time.monotonic(), ledger.finished
        storing.allowed = max(storing.allowed, turns[number + 1])
        time.sleep(kill.away_s)
        cluster.start(kill.victim)
        back_s = time.monotonic() - last
        tell(f"{number + 1:3} of {plan.kills}: {kill.victim} killed at {done} images, back after {back_s:.1f} s")
    storing.allowed = plan.images
    return last


def run(plan: Plan, folder: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """One run; its figures."""
    ledger = Ledger()
    began = time.monotonic()
    with Cluster(folder) as cluster, cluster.client() as client, Crew() as callers, Crew() as searchers:
        client.create_collection(COLLECTION)
        storing = Storing(client, ledger, plan, callers.stop)
        callers.add(storing.run, plan.callers, "caller")
        searchers.add(search_on(client, ledger, searchers.stop), SEARCHERS, "searcher")
        last_kill = kill_all(cluster, plan, storing, ledger, tell)
        left = callers.join(timeout_s=STALLED_S)
        since = max(last_kill, ledger.finished_at)
        searchers.stop.set()
        left += searchers.join(timeout_s=60)
        samples = ledger.all_samples()
        tell(f"all callers ended after {ledger.finished_at - began:.0f} s; waiting until everything is at rest")
        settled_s, wrong = settle(client, COLLECTION, since=since, limit_s=SETTLE_LIMIT_S)
        tell(f"at rest after {settled_s:.1f} s; reading back" if settled_s is not None else f"not at rest: {wrong}")
        report = audit(client, cluster.vector_settings(), COLLECTION, ledger)
        if settled_s is None or report.lost or report.twice or report.returned:
            cluster.keep_logs()
    _tell_differences(report, tell)
    searches = [sample for sample in samples if sample.kind == "search"]
    figures: dict[str, Any] = {
        "images": plan.images,
        "acknowledged": len(ledger.kept) + len(ledger.removed),
        "callers": plan.callers,
        "seed": plan.seed,
        "kills": plan.kills,
        **{
            f"killed.{name}": n
            for name, n in sorted(Counter(k.victim for k in schedule(plan.seed, plan.kills)).items())
        },
        "lost": len(report.lost),
        "duplicates": len(report.twice),
        "returned": len(report.returned),
        "hung": max(sum(sample.hung for sample in samples), len(left)),
        "settled_s": -1.0 if settled_s is None else round(settled_s, 1),
        "settle_limit_s": SETTLE_LIMIT_S,
        "searches": len(searches),
        "searches_failed": sum(sample.code != "OK" for sample in searches),
        "unexplained": sum(sample.code in {"INTERNAL", "UNKNOWN"} for sample in samples),
        "seconds": round(time.monotonic() - began, 1),
    }
    for kind, numbers in tally(samples).items():
        figures |= {f"calls.{kind}.{name}": value for name, value in numbers.items()}
    figures["ok"] = all(holds for _, _, holds in lines_of(figures))
    return figures


def lines_of(figures: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """What has to hold: in words, what came out, and whether it does."""
    searches = figures["searches"]
    return [
        (
            "every image acknowledged in the end",
            f"{figures['acknowledged']} of {figures['images']}",
            figures["acknowledged"] == figures["images"],
        ),
        ("acknowledged images lost", str(figures["lost"]), figures["lost"] == 0),
        ("images or segments twice", str(figures["duplicates"]), figures["duplicates"] == 0),
        ("removed images that came back", str(figures["returned"]), figures["returned"] == 0),
        ("calls that outlived their deadline", str(figures["hung"]), figures["hung"] == 0),
        (
            f"at rest and healthy within {figures['settle_limit_s']:g} s",
            f"{figures['settled_s']} s",
            0 <= figures["settled_s"] <= figures["settle_limit_s"],
        ),
        (
            "searches answered meanwhile",
            f"{searches - figures['searches_failed']} of {searches}",
            searches > figures["searches_failed"],
        ),
        ("errors without an explanation", str(figures["unexplained"]), figures["unexplained"] == 0),
    ]


def _tell_differences(report: Audit, tell: Callable[[str], None]) -> None:
    for what, differences in (("lost", report.lost), ("twice", report.twice)):
        for image_id, wrong in sorted(differences.items())[:20]:
            tell(f"{what}: {image_id}: {wrong}")
    for image_id in sorted(report.returned)[:20]:
        tell(f"came back: {image_id}")


def plan_for(*, quick: bool, images: int, kills: int, callers: int, seed: int) -> Plan:
    """The size asked for; 0: that of a quick or of a full run."""
    return Plan(images or (300 if quick else 5_000), kills or (8 if quick else 25), callers or 16, seed)


def main(
    images: Annotated[int, typer.Option(help="Images to store; 0: 5,000, or 300 where QUICK is set.")] = 0,
    kills: Annotated[int, typer.Option(help="Kills; 0: 25, or 8 where QUICK is set.")] = 0,
    callers: Annotated[int, typer.Option(help="Callers that store; 0: 16.")] = 0,
    seed: Annotated[int, typer.Option(help="Decides what is killed, and when.")] = 1,
    out: Annotated[Path, typer.Option(help="Where the report is written as JSON.")] = Path("build/faults.json"),
) -> None:
    """Kill everything again and again under load, and read back what was acknowledged."""
    console = Console(width=140)
    plan = plan_for(quick=bool(os.environ.get("QUICK")), images=images, kills=kills, callers=callers, seed=seed)
    with tempfile.TemporaryDirectory(prefix="saccade-chaos-") as folder:
        try:
            figures = run(plan, Path(folder), lambda line: console.print(line, highlight=False))
        except EngineMissing as exc:
            console.print(str(exc))
            raise typer.Exit(2) from exc
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=2) + "\n")
    table = Table("what", "came out", "")
    for what, came_out, holds in lines_of(figures):
        table.add_row(what, came_out, "holds" if holds else "FAILS")
    console.print(table)
    console.print(f"written: {out}")
    raise typer.Exit(0 if figures["ok"] else 1)


if __name__ == "__main__":
    typer.run(main)
