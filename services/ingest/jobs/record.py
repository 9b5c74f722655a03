"""What the object store holds about a job, and under which keys.

    jobs/{id}.json               JobRecord; stays when the job has ended
    active_jobs/{id}/lease       Lease; there until the job has ended
    active_jobs/{id}/cancel      somebody asked to stop it
    active_jobs/{id}/attached    more than its record should hold: addresses to import

Ids sort by time, the newest first.
"""

import base64
import secrets
from enum import StrEnum
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from services.common.errors import InvalidArgument
from services.common.records import GenerationRecord
from services.ingest.markers import now_ms

__all__ = [
    "ACTIVE",
    "JOBS",
    "JobError",
    "JobRecord",
    "JobState",
    "Lease",
    "attached_key",
    "cancel_key",
    "check_job_id",
    "job_key",
    "lease_key",
    "new_job_id",
]

JOBS: Final = "jobs/"
ACTIVE: Final = "active_jobs/"
_TIME_BYTES: Final = 6
_ID_CHARS: Final = 18


def new_job_id() -> str:
    """An id that sorts before all older ones: 18 of 0-9 and a-v."""
    left = (1 << (8 * _TIME_BYTES)) - 1 - now_ms()
    # 11 bytes are 17.6 characters of five bits.
    return base64.b32hexencode(left.to_bytes(_TIME_BYTES) + secrets.token_bytes(5)).decode().lower().rstrip("=")


def check_job_id(job_id: str, field: str = "id") -> str:
    """The id itself, or InvalidArgument."""
    if not (len(job_id) == _ID_CHARS and job_id.isascii() and job_id.isalnum() and job_id == job_id.lower()):
        raise InvalidArgument(
            f"a job's id has {_ID_CHARS} of 0-9 and a-z, as the call that started it gave it", field=field
        )
    return job_id


def job_key(job_id: str) -> str:
    """Key of the JobRecord."""
    return f"{JOBS}{job_id}.json"


def lease_key(job_id: str) -> str:
    """Key of the Lease."""
    return f"{ACTIVE}{job_id}/lease"


def cancel_key(job_id: str) -> str:
    """Key of the wish to stop it."""
    return f"{ACTIVE}{job_id}/cancel"


def attached_key(job_id: str) -> str:
    """Key of what came with it."""
    return f"{ACTIVE}{job_id}/attached"


class JobState(StrEnum):
    """Where a job stands; see the contract."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    def to_bytes(self) -> bytes:
        """As JSON in UTF-8."""
        return self.model_dump_json().encode()


class JobError(_Record):
    """Why one item could not be done; see the contract's ItemError."""

    code: int
    reason: str
    message: str
    field: str = ""


class JobRecord(_Record):
    """A job. Times are milliseconds since the epoch.

    Attributes:
        id: Its name.
        kind: What it does: import, reindex, repair or retag.
        collection: What it works on.
        params: What was asked for, as its kind reads it.
        state: Where it stands.
        failure: Why it ended badly.
        detail: What it does now or, at the end, what came out of it, in words.
        total: Items known.
        done: Items done.
        failed: Items that could not be done.
        errors: The latest of those; of a repair, the latest differences.
        findings: Of a repair: differences found and repaired, by kind.
        counted: The same when the cursor was last moved: what was found since is found again after an interruption.
        phase: What its kind remembers of how far it is.
        cursor: Item after which it goes on.
        target: Generation that it builds or goes back to, once that is settled.
        retired: Generation that it takes away to make room.
        created_at_ms: When it was started.
        ended_at_ms: When it ended; 0: it has not.
    """

    id: str
    kind: str
    collection: str
    params: dict[str, Any] = {}
    state: JobState = JobState.RUNNING
    failure: str = ""
    detail: str = ""
    total: int = 0
    done: int = 0
    failed: int = 0
    errors: tuple[JobError, ...] = ()
    findings: dict[str, tuple[int, int]] = {}
    counted: dict[str, tuple[int, int]] = {}
    phase: str = ""
    cursor: str = ""
    target: GenerationRecord | None = None
    retired: GenerationRecord | None = None
    created_at_ms: int
    ended_at_ms: int = 0

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.state is JobState.RUNNING


class Lease(_Record):
    """Who is at work on a job, until when unless it is renewed."""

    owner: str = ""
    until_ms: int = 0

    def held_by_other_than(self, owner: str) -> bool:
        """Whether `owner` has to leave the job alone now."""
        return self.owner != owner and self.until_ms > now_ms()
