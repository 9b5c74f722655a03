from itertools import islice

import numpy as np
import torch

from demo.clip_data import ClipBatch, ClipPool, Flags, Item, truth
from demo.train_clip import contrastive_loss, pair_loss

OWL, BUS = frozenset({"owl"}), frozenset({"bus"})


def pool() -> ClipPool:
    items = [Item("crop", {name: (0.5, 0.5)}, frozenset({name}), None) for name in ("owl", "owl", "bus", "bus")]
    images = np.arange(4, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3)
    return ClipPool(images, items)


def flags(*facts: frozenset[str]) -> Flags:
    return truth([(names, None) for names in facts])


def test_batches_keep_pairs_together_and_captions_true() -> None:
    batches = list(islice(pool().batches(np.random.default_rng(0), 2), 4))
    assert sorted(int(batch.images[0, 0, 0, 0]) for batch in batches[:2]) == [0, 2]
    for batch in batches:
        assert batch.images.shape == (2, 8, 8, 3)
        assert int(batch.images[1, 0, 0, 0]) == int(batch.images[0, 0, 0, 0]) + 1
        assert (batch.says <= batch.shows).all()
        assert np.array_equal(batch.subjects[0], batch.subjects[1])


def test_batches_are_the_same_for_the_same_seed() -> None:
    first, second = (next(pool().batches(np.random.default_rng(5), 4)) for _ in range(2))
    assert first.captions == second.captions
    assert np.array_equal(first.images, second.images)


def batch(shows: Flags, says: Flags, subjects: Flags) -> ClipBatch:
    return ClipBatch(np.zeros((len(shows), 1, 1, 3), np.uint8), [""] * len(shows), shows, says, subjects)


def test_a_caption_true_of_another_picture_is_no_negative() -> None:
    both = flags(OWL | BUS, OWL)
    logits = torch.tensor([[5.0, 90.0], [0.0, 5.0]])
    excused = contrastive_loss(logits, batch(both, flags(OWL | BUS, OWL), both))
    blamed = contrastive_loss(logits, batch(flags(OWL, OWL), flags(OWL, BUS), both))
    assert float(excused) < 0.1
    assert float(blamed) > 20


def test_pictures_of_the_same_objects_are_no_negatives_of_each_other() -> None:
    subjects = flags(OWL, OWL, OWL, BUS)
    logits = torch.zeros(4, 4)
    logits[0, 1] = logits[1, 0] = logits[2, 3] = logits[3, 2] = 9
    logits[0, 2] = logits[2, 0] = 90
    data = batch(subjects, subjects, subjects)
    assert float(pair_loss(logits, data)) < 0.01
