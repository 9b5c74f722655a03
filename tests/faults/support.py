"""What the tests of faults share: a disk of their own, callers during a fault, and what has to hold after it."""

import contextlib
import errno
import hashlib
import itertools
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import grpc
import pytest

from benchmarks.audit import audit, settle
from benchmarks.cluster import Cluster
from benchmarks.load import Kept, Ledger, patiently, picture
from saccade import ApiError, Client, NewImage
from saccade.requests import Wait

__all__ = ["CALL_S", "PASSING", "PATIENCE_S", "SETTINGS", "Callers", "Disk", "small_disk"]

COLLECTION: Final = "faults"
CALL_S: Final = 8.0
"""Deadline of a call during a fault."""
PATIENCE_S: Final = 240.0
"""How long to wait until everything works again by itself; long enough for a busy machine."""

PASSING: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
)
"""What a caller may be told while something is away for a moment: come back."""
EXPLAINED: Final = PASSING | {grpc.StatusCode.FAILED_PRECONDITION}
# Pauses that suit a test; what they are in production only makes recovery slower.
SETTINGS: Final = {
    "SACCADE_INGEST_LEASE_S": "4",
    "SACCADE_INGEST_SCAN_S": "0.5",
    "SACCADE_INGEST_BACKOFF_S": "0.5",
    "SACCADE_INGEST_MAX_BACKOFF_S": "4",
}


@dataclass(frozen=True)
class Disk:
    """A small file system of its own."""

    path: Path

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Without a byte of room inside the block."""
        filler = self.path / "filler"
        try:
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(b"\0" * 65_536):
                    pass
            with pytest.raises(OSError, match="No space left") as caught:
                (self.path / "more").write_bytes(b"\0" * 65_536)
            assert caught.value.errno == errno.ENOSPC
            yield
        finally:
            (self.path / "more").unlink(missing_ok=True)
            filler.unlink(missing_ok=True)

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        """Without the right to write inside the block."""
        subprocess.run(["mount", "-o", "remount,ro", self.path], check=True)
        try:
            yield
        finally:
            subprocess.run(["mount", "-o", "remount,rw", self.path], check=True)


@contextlib.contextmanager
def small_disk(path: Path, mebibytes: int) -> Iterator[Disk | None]:
    """A file system in memory, mounted at a folder; None where this process may not mount."""
    path.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(path)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        yield None
        return
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@dataclass
class Callers:
    """Callers of one cluster, and all that they were promised since it began."""

    cluster: Cluster
    client: Client
    ledger: Ledger = field(default_factory=Ledger)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def begin(self, images: int = 12) -> None:
        """Make the collection, and store images that searches find."""
        self.client.create_collection(COLLECTION)
        for _ in range(images):
            self.store("segmented", deadline_s=60)

    def store(self, wait: Wait = "searchable", *, deadline_s: float = CALL_S) -> None:
        """Store a new image; its promise is noted where it is acknowledged, and its doubt where it is not."""
        number = next(self._numbers)
        data, image_id = picture(number), f"image-{number:05d}"
        image = NewImage(data, id=image_id, title=f"picture {number}")
        client = self.client.with_timeout(deadline_s)
        try:
            self.ledger.call("create", deadline_s, lambda: client.create_image(COLLECTION, image, wait_for=wait))
        except ApiError:
            self.ledger.doubt(image_id)
            raise
        self.ledger.promise(image_id, Kept(hashlib.sha256(data).hexdigest(), image.title))

    def search(self) -> None:
        """Search for something that is there."""
        client = self.client.with_timeout(CALL_S)
        answer = self.ledger.call("search", CALL_S, lambda: client.search(COLLECTION, text="red", top_k=5))
        assert answer.results

    def read(self) -> None:
        """Read an image that is there."""
        client = self.client.with_timeout(CALL_S)
        self.ledger.call("get", CALL_S, lambda: client.get_image(COLLECTION, next(iter(self.ledger.kept))))

    def all_at_once(self) -> list[ApiError]:
        """Calls of every kind beside each other, each tried once; the errors that they ended in.

        Fails where a call outlives its deadline, or ends in an error that says nothing.
        """
        kinds: list[Callable[[], None]] = [
            *(partial(self.store, wait) for wait in ("durable", "searchable", "durable", "searchable")),
            *(self.search, self.search, self.read),
        ]
        with ThreadPoolExecutor(len(kinds)) as pool:
            futures = [pool.submit(kind) for kind in kinds]
        errors = []
        for future in futures:
            error = future.exception()
            if isinstance(error, ApiError):
                errors.append(error)
            elif error is not None:
                raise error
        assert [sample for sample in self.ledger.all_samples() if sample.hung] == []
        assert [error for error in errors if not error.message or error.code not in EXPLAINED] == []
        return errors

    def works_again(self) -> None:
        """Everything works again by itself, nothing is lost and nothing twice."""
        began = time.monotonic()
        for work in (self.store, self.search, self.read):
            patiently(work, patience_s=PATIENCE_S)
        settled_s, wrong = settle(self.client, COLLECTION, since=began, limit_s=PATIENCE_S)
        assert settled_s is not None, wrong
        report = audit(self.client, self.cluster.vector_settings(), COLLECTION, self.ledger)
        assert (report.lost, report.twice, report.returned) == ({}, {}, set())
