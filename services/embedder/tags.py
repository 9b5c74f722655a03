"""Zero-shot tags: which words of a vocabulary a vector is near to."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.common.domain import Tag, Vector, VocabularyEntry

__all__ = ["DEFAULT_TEMPLATES", "TagChooser", "TagSpace"]

DEFAULT_TEMPLATES: Final = ("a photo of a {}",)
MAX_TAGS: Final = 5
"""Most tags for one vector."""


@dataclass(frozen=True, slots=True, eq=False)
class TagSpace:
    """A vocabulary's words as unit rows, shape [entries, dimension]."""

    entries: tuple[VocabularyEntry, ...]
    vectors: NDArray[np.float32]

    def tags(self, vector: Vector, *, logit_scale: float, min_confidence: float) -> tuple[Tag, ...]:
        """At most MAX_TAGS words by softmax(logit_scale * cosine) over the vocabulary, most confident first."""
        logits = logit_scale * (self.vectors @ vector).astype(np.float64)
        weights = np.exp(logits - logits.max())
        confidence = weights / weights.sum()
        order = np.argsort(-confidence, kind="stable")[:MAX_TAGS]
        return tuple(
            Tag(self.entries[i].name, self.entries[i].category, float(confidence[i]))
            for i in order
            if confidence[i] >= min_confidence
        )


class TagChooser:
    """Embeds vocabularies, each once, and keeps the latest ones. Used from one event loop."""

    def __init__(
        self, embed: Callable[[Sequence[str]], Awaitable[NDArray[np.float32]]], *, max_vocabularies: int
    ) -> None:
        """Make an empty one.

        Args:
            embed: Texts to unit rows.
            max_vocabularies: How many are kept; the one not used for longest goes first.
        """
        self._embed = embed
        self._max = max_vocabularies
        self._spaces: OrderedDict[tuple[tuple[VocabularyEntry, ...], tuple[str, ...]], asyncio.Future[TagSpace]] = (
            OrderedDict()
        )

    async def space(self, vocabulary: Sequence[VocabularyEntry], templates: Sequence[str]) -> TagSpace:
        """The vocabulary's words, each the mean over its sentences; a name that occurs twice counts once.

        Callers who ask for the same one meanwhile share the work, which goes on when one of them gives up.
        """
        entries: dict[str, VocabularyEntry] = {}
        for entry in vocabulary:
            entries.setdefault(entry.name, entry)
        key = (tuple(entries.values()), tuple(templates) or DEFAULT_TEMPLATES)
        task = self._spaces.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            # In a context of its own: the deadline of the caller who came first must not end the others' work.
            task = asyncio.get_running_loop().create_task(self._make(*key), context=Context())
            # If all who wait give up, nobody else takes note of a failure.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._spaces[key] = task
        self._spaces.move_to_end(key)
        while len(self._spaces) > self._max:
            self._spaces.popitem(last=False)
        return await asyncio.shield(task)

    async def _make(self, entries: tuple[VocabularyEntry, ...], templates: tuple[str, ...]) -> TagSpace:
        texts = [template.replace("{}", entry.name) for entry in entries for template in templates]
        rows = await self._embed(texts)
        means = rows.reshape(len(entries), len(templates), -1).mean(axis=1)
        return TagSpace(entries, means / np.linalg.norm(means, axis=1, keepdims=True))
