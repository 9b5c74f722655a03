"""The generations that a collection's record names, compared with those that the index has."""

from functools import partial

from services.common.records import CollectionRecord, GenerationRecord
from services.common.vectors import Generation, VectorStore
from services.ingest.jobs.findings import Kind
from services.ingest.jobs.owning import Owning
from services.ingest.jobs.run import Run
from services.ingest.jobs.told import Told

__all__ = ["Generations"]


class Generations:
    """Compares and mends generations, for the job that holds the collection."""

    def __init__(self, vectors: VectorStore, owning: Owning) -> None:
        """Work on these."""
        self._vectors = vectors
        self._owning = owning

    async def compare(self, told: Told) -> bool:
        """Whether the live generation can be asked afterwards.

        One that is lost is made anew, empty, under its own number; so is one with vectors of another model.
        """
        run = told.run
        record = await self._owning.look(run)
        live = Generation.of(record)
        survey = await run.ask(self._vectors.survey, live)
        there = survey.complete and survey.of_this_model
        if not survey.complete:
            await told.one(Kind.INDEX_MISSING, record.name, partial(self._make_anew, live))
        elif not survey.of_this_model:
            await told.one(Kind.INDEX_OF_OTHER_MODEL, record.name, partial(self._make_anew, live))
        elif not survey.active:
            await told.one(Kind.ALIAS_WRONG, record.name, partial(self._vectors.activate, live))
        await self._others(told, record, survey.numbers)
        return there or told.mend

    async def _others(self, told: Told, record: CollectionRecord, numbers: frozenset[int]) -> None:
        known = {record.generation}
        if record.building is not None:
            # Its job has ended: this one holds the collection.
            known.add(record.building.number)
            await told.one(
                Kind.GENERATION_ABANDONED,
                f"G{record.building.number}",
                partial(self._forget, told.run, record.building, "building"),
            )
        if record.previous is not None:
            known.add(record.previous.number)
            survey = await told.run.ask(self._vectors.survey, Generation.of(record.under(record.previous)))
            if not (survey.complete and survey.of_this_model):
                await told.one(
                    Kind.PREVIOUS_MISSING,
                    f"G{record.previous.number}",
                    partial(self._forget, told.run, record.previous, "previous"),
                )
        for number in sorted(numbers - known):
            await told.one(Kind.GENERATION_ABANDONED, f"G{number}", partial(self._drop, record, number))

    async def _make_anew(self, live: Generation) -> None:
        # Whole: rows that are left without those beside them, or of another model, would not be found out again.
        await self._vectors.deactivate(live.collection)
        await self._vectors.drop_generation(live)
        await self._vectors.create_generation(live)
        await self._vectors.activate(live)

    async def _forget(self, run: Run, generation: GenerationRecord, role: str) -> None:
        record = await self._owning.change(run, lambda now: now.model_copy(update={role: None}))
        if generation.number != record.generation:
            await self._drop(record, generation.number)

    async def _drop(self, record: CollectionRecord, number: int) -> None:
        stranger = record.live.model_copy(update={"number": number})
        await self._vectors.drop_generation(Generation.of(record.under(stranger)))
