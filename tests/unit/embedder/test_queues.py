"""Warm-up."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from services.embedder.models.toy import ToyEncoder
from services.embedder.queues import EncoderQueue


class Recorded(ToyEncoder):
    """Notes the sizes of its batches; what is left of its vectors depends on them by `drift`."""

    max_batch = 6

    def __init__(self, drift: float = 0.0) -> None:
        self.sizes: dict[str, list[int]] = {"image": [], "text": []}
        self._drift = drift

    def embed_images(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.sizes["image"].append(len(batch))
        rows = super().embed_images(batch)
        rows[:, 0] += self._drift * (len(batch) - 1)
        unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    def embed_texts(self, batch: list[str]) -> NDArray[np.float32]:  # type: ignore[override]
        self.sizes["text"].append(len(batch))
        return super().embed_texts(batch)


@pytest.mark.parametrize("drift", [0.0, 0.05])
async def test_each_size_is_used_and_dependence_on_it_is_told(drift: float) -> None:
    encoder = Recorded(drift)
    with ThreadPoolExecutor(1) as pool, capture_logs() as logs:
        queue = EncoderQueue(encoder, pool, bulk_every=4)
        queue.batcher.start()
        await queue.warm_up()
        await queue.batcher.close()
    assert {kind: set(sizes) for kind, sizes in encoder.sizes.items()} == {"image": {1, 2, 4, 6}, "text": {1, 2, 4, 6}}
    warnings = [log for log in logs if log["log_level"] == "warning"]
    assert len(warnings) == (1 if drift else 0)
