"""A collection goes from one model to another and back, under constant search load, through a SIGKILL of ingest."""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from saccade import ApiError, Client, NewImage, filters
from saccade.ingest.v1 import ingest_service_pb2 as ingest
from saccade.labels import Label
from saccade.query.v1 import query_service_pb2 as query
from services.stack import gallery
from services.stack.processes import wait_until
from services.stack.settings import StackSettings
from services.stack.stack import Engines, Stack, temporary_stack
from tests.engines import not_installed, tools_dir

NAME: Final = "mine"
SCENES: Final = 160
SEARCHERS: Final = 3
JOB_T: Final = 240
TEXTS: Final = ("red", "green and blue", "a yellow thing", "a bus", "an owl")
SETTINGS: Final = {
    "SACCADE_MODEL": "toy,demo",
    "SACCADE_SEGMENTER": "toy",
    "SACCADE_INGEST_LEASE_S": "3",
    "SACCADE_INGEST_SCAN_S": "0.5",
}
RUNNING: Final = ingest.Job.STATE_RUNNING

Answer = tuple[str, ...]


@pytest.fixture(params=["lite", "real"])
def stack(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    engines: Engines = request.param
    if engines == "real" and not (tools_dir() / "bin").exists():
        not_installed("Milvus and MinIO are not installed: run `make tools`")
    environ = {name: value for name, value in os.environ.items() if not name.upper().startswith("SACCADE_")}
    with temporary_stack({**environ, **SETTINGS}, engines=engines, inherit=True, data=tmp_path) as running:
        yield running


@dataclass
class Load:
    """Searches that threads make all the time, and what came of them."""

    stack: Stack
    answers: dict[tuple[int, str, str], set[Answer]] = field(default_factory=dict)
    made: int = 0
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator["Load"]:
        threads = [threading.Thread(target=self._search, args=(i,)) for i in range(SEARCHERS)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
            self._stop.clear()

    def _search(self, number: int) -> None:
        with self.stack.client(timeout_s=30) as client:
            for text in itertools.islice(itertools.cycle(TEXTS), number, None):
                if self._stop.is_set():
                    return
                started = time.monotonic()
                try:
                    answer = search(client, text)
                except ApiError as exc:
                    self._note(failure=f"{exc.code} {exc.message}")
                else:
                    self._note(text, answer, seconds=time.monotonic() - started)

    def _note(
        self, text: str = "", answer: query.SearchResponse | None = None, *, failure: str = "", seconds: float = 0.0
    ) -> None:
        with self._lock:
            self.made += 1
            self.slowest_s = max(self.slowest_s, seconds)
            if answer is None:
                self.failures.append(failure)
            else:
                key = (answer.plan.generation, answer.plan.fingerprint, text)
                self.answers.setdefault(key, set()).add(ids_of(answer))

    def generations(self) -> set[tuple[int, str]]:
        """Generations that answered, with the fingerprints that they told."""
        with self._lock:
            return {(generation, fingerprint) for generation, fingerprint, _ in self.answers}


def search(client: Client, text: str) -> query.SearchResponse:
    """What has the tag `fixed`, compared with every vector: one right answer for each generation."""
    return client.search(NAME, text=text, literal_text=True, filter=filters.tags("fixed"), top_k=8, exact=True)


def ids_of(answer: query.SearchResponse) -> Answer:
    return tuple(result.image.id for result in answer.results)


def right_answers(client: Client) -> dict[tuple[int, str, str], Answer]:
    """What the generation that is live answers while nothing goes on."""
    answers = {}
    for text in TEXTS:
        answer = search(client, text)
        answers[answer.plan.generation, answer.plan.fingerprint, text] = ids_of(answer)
        assert len(answer.results) == 8
    return answers


class Changes:
    """Images that are made, replaced, renamed and removed all the time by one thread; what they should be then."""

    def __init__(self, stack: Stack, pictures: list[bytes]) -> None:
        self._stack = stack
        self._pictures = pictures
        self._thread = threading.Thread(target=self._run)
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self.titles: dict[str, str] = {}
        self.made = 0

    def __enter__(self) -> "Changes":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            with self._stack.client(timeout_s=20) as client:
                for i in itertools.count():
                    if self._stopped.is_set():
                        return
                    self._change(client, i)
                    # Not the writes are what is tested: they leave the machine to the job.
                    self._stopped.wait(0.1)
        except BaseException as exc:
            self._error = exc

    def _change(self, client: Client, i: int) -> None:
        name, kind = f"moving{i % 12}", i % 7
        picture = self._pictures[i % len(self._pictures)]
        if kind == 6 and name in self.titles:
            self._ask(lambda: client.delete_image(NAME, name, allow_missing=True))
            del self.titles[name]
        elif kind in {3, 4} and name in self.titles:
            self._ask(lambda: client.update_image(NAME, name, title=f"title {i}", tags=["moving", f"t{i}"]))
            self.titles[name] = f"t{i}"
        else:
            new = NewImage(picture, id=name, title=f"title {i}", tags=["moving", f"t{i}"])
            self._ask(lambda: client.create_image(NAME, new, wait_for="durable", replace=True))
            self.titles[name] = f"t{i}"
        self.made += 1

    @staticmethod
    def _ask(call: Callable[[], Any]) -> None:
        """Ask again while ingest is away; each call may be made twice."""
        end = time.monotonic() + 60
        while True:
            try:
                call()
            except ApiError as exc:
                if exc.code not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                    raise
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
            else:
                return


def job_of(client: Client, job_id: str) -> ingest.Job | None:
    """The job; None while ingest is away."""
    try:
        return client.get_job(job_id)
    except ApiError as exc:
        if exc.code != grpc.StatusCode.UNAVAILABLE:
            raise
        return None


def has_ended(client: Client, job_id: str) -> bool:
    job = job_of(client, job_id)
    return job is not None and job.state != RUNNING


def check_index(client: Client, changes: Changes, fixed: list[str]) -> None:
    """The index has what was stored and not removed, each once, and finds it by its latest tags."""
    assert wait_until(lambda: client.get_collection(NAME).pending_count == 0, timeout_s=90)
    wanted = sorted([*fixed, *changes.titles])
    assert sorted(image.id for image in client.list_images(NAME)) == wanted
    found = client.get_collection(NAME)
    assert found.image_count == len(wanted)
    assert found.segment_count == sum(len(client.get_image(NAME, name).segments) for name in wanted)
    for name, tag in changes.titles.items():
        assert [image.id for image in client.list_images(NAME, filter=filters.tags(tag))] == [name]
        answer = client.search(NAME, like=name, filter=filters.tags("moving"), top_k=50, exact=True, mode="whole")
        assert {result.image.id for result in answer.results} == set(changes.titles) - {name}


def killed_in_the_middle(stack: Stack, client: Client, job: ingest.Job) -> int:
    """Kill ingest while the job is at it, and start it again: it goes on where it was; how far that is."""
    assert wait_until(lambda: client.get_job(job.id).done >= SCENES // 4, timeout_s=JOB_T)
    before = client.get_job(job.id)
    assert before.state == RUNNING, before
    stack.processes["ingest"].restart()
    assert wait_until(lambda: job_of(client, job.id) is not None, timeout_s=30)
    after = client.get_job(job.id)
    assert after.state == RUNNING
    assert after.done >= before.done
    return before.done


def succeeded(client: Client, job: ingest.Job) -> ingest.Job:
    """The job once it has ended well."""
    assert wait_until(lambda: has_ended(client, job.id), timeout_s=JOB_T), job_of(client, job.id)
    found = client.get_job(job.id)
    assert found.state == ingest.Job.STATE_SUCCEEDED, found
    return found


def store(client: Client, labels: list[Label]) -> None:
    client.create_collection(NAME)
    images = [NewImage(label.to_image().content, id=label.id, tags=["fixed"]) for label in labels]
    for result in client.stream_images(images, collection=NAME, wait_for="segmented"):
        assert result.image, result.error


@pytest.mark.timeout(900)
def test_from_one_model_to_another_and_back_under_load(stack: Stack) -> None:
    labels = gallery.gallery_labels(StackSettings().demo_dir, SCENES + 12)
    fixed, spare = labels[:SCENES], labels[SCENES:]
    ids = [label.id for label in fixed]
    pictures = [Path(str(label.to_image().content)).read_bytes() for label in spare]
    load = Load(stack)
    with stack.client() as client:
        store(client, fixed)
        right = right_answers(client)
        assert {key[0] for key in right} == {1}

        started = time.monotonic()
        with load.running(), Changes(stack, pictures) as changes:
            assert wait_until(lambda: load.made > 20 and changes.made > 12, timeout_s=60)
            job = client.reindex_collection(NAME, model="demo")
            killed_after = killed_in_the_middle(stack, client, job)
            job = succeeded(client, job)
            there_s = time.monotonic() - started
            assert wait_until(lambda: any(number == 2 for number, _ in load.generations()), timeout_s=30)
        # One that began anew would have counted those before the kill once more.
        assert job.failed == 0
        assert job.done <= SCENES + 12 + 12
        found = client.get_collection(NAME)
        assert (found.model, found.generation, found.previous_generation) == ("demo", 2, 1)
        check_index(client, changes, ids)
        right |= right_answers(client)
        there = load.made

        started = time.monotonic()
        with load.running(), Changes(stack, pictures) as more:
            more.titles |= changes.titles
            assert wait_until(lambda: more.made > 12, timeout_s=60)
            succeeded(client, client.reindex_collection(NAME, rollback=True))
            back_s = time.monotonic() - started
            # Query trusts for two seconds what it knows of a collection.
            seen, end = load.made, time.monotonic() + 3
            assert wait_until(lambda: load.made > seen + 20 and time.monotonic() > end, timeout_s=60)
        found = client.get_collection(NAME)
        assert (found.model, found.generation, found.previous_generation) == ("toy", 1, 2)
        check_index(client, more, ids)
        assert right_answers(client).items() <= right.items()

    print(  # noqa: T201
        f"searches {load.made} ({there} on the way there, {load.made - there} on the way back), "
        f"failed {len(load.failures)}, slowest {load.slowest_s:.2f} s; "
        f"to the other model in {there_s:.1f} s with a SIGKILL after {killed_after} images, back in {back_s:.1f} s; "
        f"images changed meanwhile {changes.made} and {more.made}"
    )
    assert load.failures == []
    # Each answer is that of its generation: of one model's vectors, all of them.
    assert load.answers == {key: {answer} for key, answer in right.items() if key in load.answers}
    assert {number for number, _ in load.generations()} == {1, 2}
