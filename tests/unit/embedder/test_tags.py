import asyncio
import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from services.common.deadline import call_deadline, time_left_s
from services.common.domain import VocabularyEntry
from services.embedder.tags import MAX_TAGS, TagChooser


class Texts:
    """Embeds "red ..." and "blue ..." apart; counts its calls."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.calls.append(list(texts))
        await self.gate.wait()
        if self.error:
            raise self.error
        axes = {"red": 0, "blue": 1, "green": 2}
        return np.stack([np.eye(4, dtype=np.float32)[axes.get(text.split()[-1], 3)] for text in texts])


WORDS = (VocabularyEntry("red", "warm"), VocabularyEntry("blue"), VocabularyEntry("green"))


async def test_confidence_is_a_softmax_over_the_vocabulary() -> None:
    space = await TagChooser(Texts(), max_vocabularies=4).space(WORDS, ())
    vector = np.array([0.8, 0.6, 0, 0], np.float32)
    tags = space.tags(vector, logit_scale=5.0, min_confidence=0.2)
    expected = np.exp([4.0, 3.0, 0.0]) / np.exp([4.0, 3.0, 0.0]).sum()
    assert [(tag.name, tag.category) for tag in tags] == [("red", "warm"), ("blue", "")]
    np.testing.assert_allclose([tag.confidence for tag in tags], expected[:2], rtol=1e-6)


async def test_at_most_five() -> None:
    words = [VocabularyEntry(f"w{i}") for i in range(20)]
    space = await TagChooser(Texts(), max_vocabularies=4).space(words, ())
    assert len(space.tags(np.full(4, 0.5, np.float32), logit_scale=1.0, min_confidence=0.0)) == MAX_TAGS


async def test_templates_are_averaged_and_of_length_one() -> None:
    texts = Texts()
    space = await TagChooser(texts, max_vocabularies=4).space(WORDS, ("a {}", "{} thing"))
    assert texts.calls == [["a red", "red thing", "a blue", "blue thing", "a green", "green thing"]]
    np.testing.assert_allclose(np.linalg.norm(space.vectors, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(space.vectors[0], np.array([1, 0, 0, 1]) / np.sqrt(2), rtol=1e-6)


async def test_a_name_counts_once() -> None:
    space = await TagChooser(Texts(), max_vocabularies=4).space([*WORDS, VocabularyEntry("red", "again")], ())
    assert space.entries == WORDS


async def test_each_vocabulary_is_embedded_once_and_the_oldest_forgotten() -> None:
    texts = Texts()
    chooser = TagChooser(texts, max_vocabularies=2)
    for templates in ((), ("{}",), (), ("a {}",), ()):
        await chooser.space(WORDS, templates)
    assert len(texts.calls) == 3
    await chooser.space(WORDS, ("{}",))
    assert len(texts.calls) == 4


async def test_callers_share_the_work_and_one_who_gives_up_does_not_spoil_it() -> None:
    texts = Texts()
    texts.gate.clear()
    chooser = TagChooser(texts, max_vocabularies=2)
    first, second = (asyncio.create_task(chooser.space(WORDS, ())) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    texts.gate.set()
    assert (await second).entries == WORDS
    assert len(texts.calls) == 1


async def test_the_first_callers_deadline_is_not_the_others() -> None:
    left: list[float] = []

    async def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        left.append(time_left_s(math.inf))
        return np.ones((len(texts), 4), np.float32)

    with call_deadline(1.0):
        await TagChooser(embed, max_vocabularies=2).space(WORDS, ())
    assert left == [math.inf]


async def test_a_failure_is_not_kept() -> None:
    texts = Texts()
    texts.error = ValueError("no")
    chooser = TagChooser(texts, max_vocabularies=2)
    with pytest.raises(ValueError, match="no"):
        await chooser.space(WORDS, ())
    texts.error = None
    assert (await chooser.space(WORDS, ())).entries == WORDS
