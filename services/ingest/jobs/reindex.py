"""`ReindexCollection`: the next generation of a collection's index, built beside the live one, and the way back.

    prepare   the generation is made, the one before the live one goes, the record says `building`
    build     every image is brought into it; images that change meanwhile get dirty marks
    drain     the marked ones are brought again, until hardly any mark is left
    check     the index is measured, and compared with the live one where the model stays
    swap      one write of the collection's record; the aliases follow
    follow    what the swap left behind is handed to the indexer, and the generation compared with the objects

Where a job stands is read from the collection's record: `building` names its generation, or that is live. Every part
may be done again. See docs/decisions/0005-generations.md.
"""

from typing import Final

import structlog

from services.common.records import CollectionRecord, GenerationRecord
from services.common.vectors import Generation, VectorStore
from services.ingest.collections import Collections
from services.ingest.dirt import DirtyMarks
from services.ingest.files import ImageFiles
from services.ingest.jobs.agreement import agreement
from services.ingest.jobs.copying import Copier, Copying
from services.ingest.jobs.following import Following
from services.ingest.jobs.measuring import Measuring, recall_words
from services.ingest.jobs.owning import Owning
from services.ingest.jobs.record import JobRecord
from services.ingest.jobs.run import JobFailed, Run
from services.ingest.jobs.sizes import lists_for
from services.ingest.markers import now_ms

__all__ = ["Reindex"]

_log = structlog.get_logger(__name__)

_COPIED_AT_ONCE: Final = 200
_EMBEDDED_AT_ONCE: Final = 32
_MARKS_AT_ONCE: Final = 100
# Where images change all the time some marks are always left; these few are handed on after the swap.
_FEW_MARKS: Final = 4
_PATIENT_ROUNDS: Final = 20
# Clocks of replicas may differ by so much; an image that changed near the swap is brought once more than needed.
_SKEW_MS: Final = 60_000
_LOST_SWAPS: Final = 5
_MIN_AGREEMENT: Final = 0.9
_SETTLE_S: Final = 120.0


class Reindex:
    """The body of reindex jobs; see the module."""

    def __init__(
        self,
        *,
        collections: Collections,
        files: ImageFiles,
        vectors: VectorStore,
        copier: Copier,
        dirt: DirtyMarks,
        following: Following,
        measuring: Measuring,
        owning: Owning,
        retire_s: float,
    ) -> None:
        """Work on these; a generation is taken away no sooner than `retire_s` after it was live."""
        self._collections = collections
        self._files = files
        self._vectors = vectors
        self._copier = copier
        self._dirt = dirt
        self._following = following
        self._measuring = measuring
        self._owning = owning
        self._retire_ms = int(retire_s * 1000)

    async def run(self, run: Run) -> str:
        """Build and swap, or go back; see JobBody."""
        record = await self._owning.claim(run)
        before = record.live if run.job.target is None or record.generation != run.job.target.number else None
        for _ in range(_LOST_SWAPS):
            target = run.job.target or await self._settle_target(run, record)
            if record.generation == target.number:
                return await self._follow(run, record, before)
            await self._prepare(run, record, target)
            await self._build(run, target)
            await self._drain(run, target)
            if not self._goes_back(run):
                await self._check(run, target)
                await self._drain(run, target)
            await self._swap(run, target)
            # Another replica may have written the record at the same moment, over the swap.
            record = await self._owning.look(run)
        raise JobFailed("the collection's record is changed all the time by others")

    async def abort(self, run: Run) -> None:
        """Take away what was built, unless it is live; see JobBody."""
        target = run.job.target
        if target is None:
            return

        def without(record: CollectionRecord) -> CollectionRecord:
            ours = record.building is not None and record.building.number == target.number
            return record.model_copy(update={"building": None}) if ours else record

        name = run.job.collection
        record = await run.ask(self._collections.change, name, without)
        if record is None or self._goes_back(run):
            return
        if target.number not in {record.generation, record.previous.number if record.previous else 0}:
            await run.ask(self._vectors.drop_generation, Generation.of(record.under(target)))
            await run.ask(self._measuring.forget, name, target.number)

    async def ended(self, job: JobRecord) -> None:
        """See JobBody."""
        await self._owning.release(job)

    async def _settle_target(self, run: Run, record: CollectionRecord) -> GenerationRecord:
        """What will be built or gone back to; written down before anything is done for it."""
        if self._goes_back(run):
            if record.previous is None:
                raise JobFailed("there is no generation to go back to")
            target = record.previous
        else:
            wanted = GenerationRecord.model_validate(run.job.params["target"])
            live = Generation.of(record)
            images = await run.ask(self._vectors.count_images, live)
            segments = await run.ask(self._vectors.count_segments, live)
            target = wanted.model_copy(
                update={"number": record.next_number, "built_nlist": lists_for(wanted.index, images, segments)}
            )
        run.update(target=target, retired=None if self._goes_back(run) else record.previous)
        await run.save()
        return target

    async def _prepare(self, run: Run, record: CollectionRecord, target: GenerationRecord) -> None:
        if record.building == target:
            await self._retire(run, record)
            return
        if not self._goes_back(run):
            run.update(detail=f"making generation {target.number}")
            generation = Generation.of(record.under(target))
            await run.ask(self._vectors.create_generation, generation)
            # Searches that began before the last swap still hold that generation.
            while run.job.retired is not None and (left_ms := record.swapped_at_ms + self._retire_ms - now_ms()) > 0:
                run.update(detail=f"waiting until no search uses generation {run.job.retired.number} any more")
                await run.pause(left_ms / 1000)

        def begun(now: CollectionRecord) -> CollectionRecord:
            kept = now.previous if self._goes_back(run) else None
            number = max(now.last_generation, now.next_number - 1, target.number)
            return now.model_copy(update={"building": target, "previous": kept, "last_generation": number})

        await self._owning.change(run, begun)
        await self._retire(run, record)

    async def _retire(self, run: Run, record: CollectionRecord) -> None:
        retired = run.job.retired
        if retired is not None:
            await run.ask(self._vectors.drop_generation, Generation.of(record.under(retired)))
            await run.ask(self._measuring.forget, record.name, retired.number)

    async def _build(self, run: Run, target: GenerationRecord) -> None:
        """Bring every image, in the order of their keys, from behind the cursor."""
        if run.job.phase == "built":
            return
        record = await self._owning.look(run)
        total = await run.ask(self._vectors.count_images, Generation.of(record))
        run.update(total=total, detail=self._words(run, record, target))
        copying = Copying(
            record,
            target,
            since_ms=max(1, record.swapped_at_ms - _SKEW_MS) if self._goes_back(run) else 0,
            # What was brought before an interruption may have been taken away since.
            fresh=not self._goes_back(run) and not run.job.cursor,
        )
        size = _COPIED_AT_ONCE if copying.reuses_vectors else _EMBEDDED_AT_ONCE
        while True:
            ids = await run.ask(self._files.ids, record.name, start_after=run.job.cursor, limit=size)
            if not ids:
                break
            await self._owning.look(run)
            failed = run.job.failed
            await self._copier.bring(run, copying, ids)
            done = run.job.done + len(ids) - (run.job.failed - failed)
            run.update(done=done, total=max(total, done + run.job.failed), cursor=ids[-1])
        if self._goes_back(run):
            await self._following.remove_strangers(run, record.name, copying.generation)
        run.update(phase="built", total=run.job.done + run.job.failed)
        await run.save()

    async def _drain(self, run: Run, target: GenerationRecord) -> None:
        """Bring the images that were marked, until hardly any is left."""
        record = await self._owning.look(run)
        copying = Copying(record, target)
        rounds = 0
        while marks := await run.ask(self._dirt.page, record.name, limit=_MARKS_AT_ONCE):
            rounds += 1
            if rounds > _PATIENT_ROUNDS and len(marks) <= _FEW_MARKS:
                return
            await self._owning.look(run)
            run.update(detail=f"bringing what changed meanwhile into generation {target.number}")
            await self._copier.bring(run, copying, list(dict.fromkeys(mark.image_id for mark in marks)))
            await run.ask(self._dirt.remove, marks)

    async def _check(self, run: Run, target: GenerationRecord) -> None:
        """Measure the new index; JobFailed where it does not find what the live one finds."""
        record = await self._owning.look(run)
        following = record.under(target)
        run.update(detail=f"measuring the recall of generation {target.number}")
        found = await run.ask(lambda: run.race(self._measuring.measure(following)))
        notes = [recall_words(found, target.index.target_recall)]
        if record.fingerprint == target.fingerprint:
            run.update(detail=f"comparing searches of generation {target.number} with those of {record.generation}")
            # Until its index is in force an engine compares all rows, and finds everything.
            await run.ask(lambda: run.race(self._vectors.settle(Generation.of(following), limit_s=_SETTLE_S)))
            share, searches = await run.ask(agreement, self._vectors, record, following)
            needed = float(run.job.params.get("min_agreement") or _MIN_AGREEMENT)
            notes.append(f"{share:.3f} of {searches} sampled searches keep their top result")
            if share < needed:
                raise JobFailed(
                    f"only {share:.3f} of {searches} sampled searches keep their top result, {needed:g} are needed; "
                    f"generation {record.generation} stays. Build an index of higher recall, or lower min_agreement"
                )
        run.update(phase="checked", params={**run.job.params, "notes": notes})

    async def _swap(self, run: Run, target: GenerationRecord) -> None:
        run.check()
        run.update(detail=f"going over to generation {target.number}")
        await run.save()

        def swapped(now: CollectionRecord) -> CollectionRecord:
            return now.under(target).model_copy(
                update={"building": None, "previous": now.live, "swapped_at_ms": now_ms()}
            )

        await self._owning.change(run, swapped)

    async def _follow(self, run: Run, record: CollectionRecord, before: GenerationRecord | None) -> str:
        """What is left to do once the generation is live."""
        run.pass_the_point()
        previous = before or record.previous or record.live
        run.update(detail=f"generation {record.generation} is live; looking after what changed at that moment")
        await run.ask(self._vectors.activate, Generation.of(record))
        await self._following.hand_on_marks(run, record.name)
        again = await self._following.compare(run, record, other_model=previous.fingerprint != record.fingerprint)
        await self._following.hand_on_marks(run, record.name)
        notes = [f"generation {record.generation} is live, {previous.number} is kept to go back to"]
        notes += run.job.params.get("notes", [])
        if again:
            notes.append(f"{again} images are indexed anew")
        if run.job.failed:
            notes.append(f"{run.job.failed} images could not be brought along")
        return "; ".join(notes)

    @staticmethod
    def _goes_back(run: Run) -> bool:
        return bool(run.job.params.get("rollback"))

    def _words(self, run: Run, record: CollectionRecord, target: GenerationRecord) -> str:
        if self._goes_back(run):
            return f"bringing generation {target.number} up to date"
        how = "copying vectors" if record.fingerprint == target.fingerprint else f"embedding with {target.model}"
        return f"building generation {target.number}: {how}"
