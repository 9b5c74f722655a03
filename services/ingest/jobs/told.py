"""How a repair tells what it finds, and what it does about it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog

from services.common.errors import InvalidArgument
from services.ingest.jobs.findings import MEANINGS, Kind
from services.ingest.jobs.run import Run

__all__ = ["Told"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Told:
    """A repair at work: its job, and whether it mends or only reports."""

    run: Run
    mend: bool

    def go_on(self) -> None:
        """After an interruption: what was found behind the cursor, and not mended, will be found again."""
        counted, findings = self.run.job.counted, {}
        for kind, (_, mended) in self.run.job.findings.items():
            found_before, mended_before = counted.get(kind, (0, 0))
            findings[kind] = (found_before + mended - mended_before, mended)
        self.run.update(findings={kind: counts for kind, counts in findings.items() if counts[0]})

    async def come_to(self, **fields: Any) -> None:
        """Save how far the job is, together with what was counted until there."""
        self.run.update(counted=self.run.job.findings, **fields)
        await self.run.save()

    async def one(self, kind: Kind, item: str, action: Callable[[], Awaitable[object]]) -> None:
        """A difference, counted; and mended by `action`, unless that finds that it can not be."""
        self.found(kind, item)
        if not self.mend:
            return
        try:
            await self.run.ask(action)
        except InvalidArgument as exc:
            _log.warning("difference not mended", job=self.run.job.id, kind=kind.value, item=item, why=exc.message)
        else:
            self.mended(kind)

    def found(self, kind: Kind, item: str, count: int = 1) -> None:
        """Differences that are mended elsewhere, if at all."""
        self.run.found(kind.value, item, MEANINGS[kind], count=count)

    def mended(self, kind: Kind, count: int = 1) -> None:
        """So many of them are."""
        if self.mend:
            self.run.repaired(kind.value, count=count)
