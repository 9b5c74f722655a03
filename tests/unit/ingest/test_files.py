import asyncio
from pathlib import Path

import pytest

from services.common.errors import Unavailable
from services.common.objects import LocalObjects
from services.common.records import original_key, thumbnail_key
from services.common.settings import ObjectSettings
from services.ingest.files import ImageFiles
from tests.unit.ingest.test_markers import RECORD


class OneFails(LocalObjects):
    """A store that refuses thumbnails, and keeps other objects only when it is told to go on."""

    def __init__(self, root: Path) -> None:
        super().__init__(ObjectSettings(objects_url=f"file://{root}"), root=str(root))
        self.refused = asyncio.Event()
        self.go_on = asyncio.Event()

    async def put(self, key: str, data: bytes, *, content_type: str = "") -> None:
        if key == thumbnail_key("c", "a"):
            self.refused.set()
            raise Unavailable("no thumbnails")
        await self.go_on.wait()
        await super().put(key, data, content_type=content_type)


async def test_a_write_that_fails_leaves_nothing_under_way(tmp_path: Path) -> None:
    store = OneFails(tmp_path)
    writing = asyncio.create_task(ImageFiles(store).write_content("c", RECORD, b"image", b"thumbnail"))
    async with asyncio.timeout(5):
        await store.refused.wait()
    done, _ = await asyncio.wait({writing}, timeout=0.05)
    assert not done
    store.go_on.set()
    with pytest.raises(Unavailable, match="no thumbnails"):
        await writing
    assert await store.get(original_key("c", "a")) == b"image"
    await store.close()
