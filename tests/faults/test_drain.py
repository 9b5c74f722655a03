"""Every process of every service is ended and started again under load, one after the other; no caller notices."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx
import pytest

from benchmarks.cluster import ENGINES, Cluster
from benchmarks.load import Crew, Ledger, picture
from saccade import ApiError, Client, NewImage
from services.stack.engines import EngineMissing
from tests.engines import not_installed

COLLECTION = "drained"
CALL_S = 60.0


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Cluster]:
    """Two replicas of each service."""
    try:
        described = Cluster(tmp_path, replicas=2)
    except EngineMissing as exc:
        not_installed(str(exc))
    with described as running:
        yield running


class Callers:
    """Calls without any retries of their own; each failure is noted."""

    def __init__(self, cluster: Cluster, client: Client) -> None:
        self._gateways = cluster.gateways
        self._client = client
        self._numbers = itertools.count()
        self.ledger = Ledger()
        self.failures: list[str] = []
        self.streamed = 0

    def start(self, crew: Crew) -> None:
        for work, count in ((self._store, 4), (self._search, 2), (self._browse, 2), (self._stream, 1)):
            crew.add(partial(work, crew.stop), count, work.__name__)

    def _new(self) -> NewImage:
        number = next(self._numbers)
        return NewImage(picture(number), id=f"image-{number:05d}")

    def _store(self, stop: threading.Event, _: int) -> None:
        while not stop.is_set():
            self._note("create", partial(self._client.create_image, COLLECTION, self._new()))

    def _search(self, stop: threading.Event, _: int) -> None:
        while not stop.is_set():
            self._note("search", partial(self._client.search, COLLECTION, text="red", top_k=5))

    def _browse(self, stop: threading.Event, number: int) -> None:
        """As behind a load balancer: the next gateway where one takes no connection or closes it without a word."""
        with httpx.Client(timeout=CALL_S) as web:
            for turn in itertools.count(number):
                if stop.is_set():
                    return
                answer = None
                for shift in range(len(self._gateways)):
                    gateway = self._gateways[(turn + shift) % len(self._gateways)]
                    with suppress(httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError):
                        answer = web.get(f"{gateway}/v1/collections/{COLLECTION}/images")
                        break
                if answer is None or answer.status_code != httpx.codes.OK:
                    self.failures.append(f"http: {answer and answer.text}")

    def _stream(self, stop: threading.Event, _: int) -> None:
        images = itertools.takewhile(lambda _: not stop.is_set(), iter(self._new, None))
        for result in self._client.stream_images(images, collection=COLLECTION, max_in_flight=4):
            self.streamed += 1
            if result.error:
                self.failures.append(f"stream: {result.error}")

    def _note(self, kind: str, make: Callable[[], object]) -> None:
        try:
            self.ledger.call(kind, CALL_S, make)
        except ApiError as exc:
            self.failures.append(f"{kind}: {exc}")


def test_rolling_restarts_fail_no_call(pair: Cluster) -> None:
    services = [name for name in pair.processes if name not in ENGINES]
    with pair.client(CALL_S) as client:
        client.create_collection(COLLECTION)
        client.create_image(COLLECTION, picture(1 << 20), wait_for="segmented")
        callers = Callers(pair, client)
        with Crew() as crew:
            callers.start(crew)
            for name in services:
                process = pair.processes[name]
                process.stop()
                # It ended by itself, and was not killed because its drain took too long.
                assert "stopped" in process.last_lines(3), process.last_words()
                process.start()
            crew.stop.set()
            assert crew.join(timeout_s=120) == []
        assert callers.failures == []
        codes = {sample.code for sample in callers.ledger.all_samples()}
        assert codes == {"OK"}
        assert callers.streamed > 0
