"""All models of one embedder, by name."""

from collections.abc import Sequence

from services.common.errors import NotFound
from services.embedder.engine import Engine
from services.embedder.models.base import Encoder, Segmenter
from services.embedder.people import People
from services.embedder.queues import EncoderQueue, SegmenterQueue
from services.embedder.settings import EmbedderSettings
from services.embedder.shared import Shared

__all__ = ["Engines"]


class Engines:
    """One engine for each encoder, over what they share. Lives in one event loop.

    Each model has a queue and an owner thread of its own: a model that is slow or hangs then keeps nobody waiting who
    asked for another one, and readiness can name the one at fault. What models that compute at the same time share is
    the device; the sum of what they give is about that of taking turns.
    """

    def __init__(self, settings: EmbedderSettings, encoders: Sequence[Encoder], segmenter: Segmenter | None) -> None:
        """Make them; `encoders` have names of their own, the first is the default one."""
        self._warm_up = settings.warm_up
        self._shared = Shared(settings, segmenter, item_seconds=self._item_seconds)
        names = tuple(encoder.name for encoder in encoders)
        self._default = names[0]
        self._engines = {encoder.name: Engine(self._shared, encoder, names) for encoder in encoders}

    @property
    def names(self) -> tuple[str, ...]:
        """Of all models, the default one first."""
        return tuple(self._engines)

    @property
    def segmenting(self) -> SegmenterQueue | None:
        """The segmenter's queue, if there is one."""
        return self._shared.segmenting

    def named(self, model: str = "") -> Engine:
        """The engine of a model, of the default one if the name is empty; NotFound names those that are loaded."""
        engine = self._engines.get(model or self._default)
        if engine is None:
            raise NotFound(
                f"the model {model!r} is not loaded here; this embedder runs {', '.join(map(repr, self.names))}",
                field="model",
                reason="MODEL_NOT_LOADED",
            )
        return engine

    async def start(self) -> None:
        """Begin to serve. When this returns, each model has answered, and with `warm_up` in every size of batch."""
        for queue in self._queues():
            queue.batcher.start()
            if self._warm_up:
                await queue.warm_up()
            await queue.check()

    @property
    def people(self) -> People:
        """Whether they are there."""
        return self._shared.people

    async def close(self) -> None:
        """Stop; whoever still waits gets Unavailable."""
        for queue in self._queues():
            await queue.batcher.close()
        self._shared.close()

    def _queues(self) -> list[EncoderQueue | SegmenterQueue]:
        encoding = [engine.encoding for engine in self._engines.values()]
        return [*encoding, self.segmenting] if self.segmenting else [*encoding]

    def _item_seconds(self) -> float:
        """Of the slowest model: who is told to come back must then find room."""
        return max(engine.encoding.batcher.item_seconds for engine in self._engines.values())
