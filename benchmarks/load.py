"""Callers of a cluster: what they ask, how long each call took, and what they were promised."""

import io
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self, TypeVar

import grpc
import numpy as np
from PIL import Image, ImageDraw

from saccade import ApiError

__all__ = ["GRACE_S", "Crew", "Kept", "Ledger", "Sample", "offer", "patiently", "picture", "tally"]

GRACE_S: Final = 2.0
"""A call that takes longer than its deadline by this hangs: it should have ended by itself."""

OK: Final = "OK"
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 5.0
# Colours that the toy models tell apart.
COLOURS: Final = ("#dc1e1e", "#f58c14", "#f5e128", "#28a03c", "#28c8d2", "#2846d2", "#823caa", "#f596be")

_T = TypeVar("_T")


def picture(seed: int, *, side_px: int = 96) -> bytes:
    """A PNG with three coloured boxes on a ground of another colour; the same bytes for a seed, others for each."""
    rng = random.Random(seed)  # noqa: S311 - a picture, not a secret
    ground, *colours = rng.sample(COLOURS, 4)
    image = Image.new("RGB", (side_px, side_px), ground)
    draw = ImageDraw.Draw(image)
    for place, colour in enumerate(colours):
        left, top = (place % 2) * side_px // 2, (place // 2) * side_px // 2
        x, y = left + rng.randint(4, side_px // 8), top + rng.randint(4, side_px // 8)
        draw.rectangle((x, y, x + side_px // 4, y + side_px // 4), fill=colour)
    for bit in range(24):  # the seed itself, so that no two are the same
        draw.point((bit, 0), fill="#000000" if seed >> bit & 1 else "#ffffff")
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


@dataclass(frozen=True, slots=True)
class Sample:
    """One call: its status code's name, when it began (seconds since the ledger's beginning), how long it took."""

    kind: str
    started_s: float
    seconds: float
    deadline_s: float
    code: str

    @property
    def hung(self) -> bool:
        """Whether it outlived its deadline."""
        return self.seconds > self.deadline_s + GRACE_S


@dataclass(frozen=True, slots=True)
class Kept:
    """What an acknowledged image must read like."""

    sha256: str
    title: str


@dataclass
class Ledger:
    """What was called and what was promised. Safe for use by several threads.

    Attributes:
        kept: Images that are acknowledged, by id.
        removed: Ids whose removal is acknowledged.
        unsure: Ids whose last change was given up without an answer: both outcomes are right.
        finished: Images whose turn is over, acknowledged or not.
        finished_at: When the last of them was, by time.monotonic.
    """

    samples: list[Sample] = field(default_factory=list)
    kept: dict[str, Kept] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)
    finished: int = 0
    finished_at: float = field(default_factory=time.monotonic)
    _under_way: dict[int, tuple[str, float, float]] = field(default_factory=dict)
    _calls: int = 0
    _began: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def call(self, kind: str, deadline_s: float, make: Callable[[], _T]) -> _T:
        """Make a call that has a deadline, and note how it went; what it raises goes on."""
        started = time.monotonic()
        with self._lock:
            self._calls += 1
            number = self._calls
            self._under_way[number] = (kind, started, deadline_s)
        code = "UNKNOWN"
        try:
            answer = make()
            code = OK
        except ApiError as exc:
            code = exc.code.name
            raise
        finally:
            now = time.monotonic()
            with self._lock:
                del self._under_way[number]
                self.samples.append(Sample(kind, started - self._began, now - started, deadline_s, code))
        return answer

    def promise(self, image_id: str, kept: Kept) -> None:
        """An image, or a change of it, was acknowledged."""
        with self._lock:
            self.kept[image_id] = kept

    def remove(self, image_id: str) -> None:
        """A removal was acknowledged."""
        with self._lock:
            self.kept.pop(image_id, None)
            self.removed.add(image_id)

    def doubt(self, image_id: str) -> None:
        """A change of it was given up."""
        with self._lock:
            self.kept.pop(image_id, None)
            self.unsure.add(image_id)

    def finish(self) -> None:
        """An image's turn is over."""
        with self._lock:
            self.finished += 1
            self.finished_at = time.monotonic()

    def open_calls(self, *kinds: str) -> int:
        """How many calls of these kinds are under way."""
        with self._lock:
            return sum(kind in kinds for kind, _, _ in self._under_way.values())

    def all_samples(self) -> list[Sample]:
        """The calls so far; one that should have ended and has not is among them, as UNANSWERED."""
        now = time.monotonic()
        with self._lock:
            open_calls = [
                Sample(kind, started - self._began, now - started, deadline_s, "UNANSWERED")
                for kind, started, deadline_s in self._under_way.values()
            ]
            return [*self.samples, *(sample for sample in open_calls if sample.hung)]


def tally(samples: Iterable[Sample]) -> dict[str, dict[str, float]]:
    """By kind of call: how many, how many went well and hung, and how long those that went well took.

    Codes of those that did not are counted as `failed.CODE`.
    """
    kinds: dict[str, list[Sample]] = {}
    for sample in samples:
        kinds.setdefault(sample.kind, []).append(sample)
    report = {}
    for kind, some in sorted(kinds.items()):
        good = [sample.seconds for sample in some if sample.code == OK]
        failed = Counter(sample.code for sample in some if sample.code != OK)
        p50, p99 = np.quantile(good, (0.5, 0.99)) if good else (0.0, 0.0)
        report[kind] = {
            "count": len(some),
            "ok": len(good),
            "hung": sum(sample.hung for sample in some),
            "p50_ms": round(float(p50) * 1000, 1),
            "p99_ms": round(float(p99) * 1000, 1),
            "slowest_s": round(max(sample.seconds for sample in some), 2),
            **{f"failed.{code}": number for code, number in sorted(failed.items())},
        }
    return report


def patiently(
    call: Callable[[], _T],
    *,
    patience_s: float,
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> _T:
    """Make a call as a sensible client does, which must be one that may be repeated.

    Again where nobody answered in time, where the service is away, and where it says when to come back; not sooner than
    it says, and with pauses that double and are drawn, up to 5 s. The last error once patience is over; any other one
    at once.
    """
    pause_s, end = FIRST_PAUSE_S, clock() + patience_s
    while True:
        try:
            return call()
        except ApiError as exc:
            passing = exc.code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
            if not (passing or exc.retry_after_s > 0) or clock() >= end:
                raise
            sleep(exc.retry_after_s + random.uniform(0, pause_s))  # noqa: S311 - jitter
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


class Crew:
    """Threads that call. Use it in a `with`: entering starts them, leaving asks them to stop and waits for them.

    Attributes:
        stop: Set when they are to stop.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop.set()
        self.join(timeout_s=60)

    def add(self, work: Callable[[int], None], count: int, name: str) -> None:
        """Start `count` threads that each run `work(number)`."""
        for number in range(count):
            thread = threading.Thread(target=self._run, args=(work, number), name=f"{name}-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def alive(self, name: str = "") -> list[str]:
        """Names of threads that have not ended, of one kind or of all."""
        return [thread.name for thread in self._threads if thread.is_alive() and thread.name.startswith(name)]

    def join(self, *, timeout_s: float, name: str = "") -> list[str]:
        """Wait for threads of one kind, or all; the names of those that did not end.

        Raises:
            ExceptionGroup: what `work` raised, of any thread.
        """
        end = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.name.startswith(name):
                thread.join(max(0.0, end - time.monotonic()))
        if self._errors:
            raise BaseExceptionGroup("callers failed", self._errors)
        return self.alive(name)

    def _run(self, work: Callable[[int], None], number: int) -> None:
        try:
            work(number)
        except BaseException as exc:
            self._errors.append(exc)


def offer(do: Callable[[int], None], *, rate: float, seconds: float, callers: int, stop: threading.Event) -> float:
    """Do `do(0)`, `do(1)` and so on `rate` times a second, whatever becomes of them, by so many threads.

    An infinite rate offers as much as the callers can. Where all are at work, the next begins late. Returns how many
    were done per second.
    """
    began, taken, lock = time.monotonic(), 0, threading.Lock()

    def work(_: int) -> None:
        nonlocal taken
        while not stop.is_set():
            with lock:
                number, due = taken, began + taken / rate
                if due - began >= seconds or time.monotonic() - began >= seconds:
                    return
                taken += 1
            if stop.wait(max(0.0, due - time.monotonic())):
                return
            do(number)

    with Crew() as crew:
        crew.add(work, callers, "offer")
        crew.join(timeout_s=seconds + 120)
    return taken / (time.monotonic() - began)
