from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.common.objects import LocalObjects
from services.common.settings import ObjectSettings


@pytest.fixture
async def objects(tmp_path: Path) -> AsyncIterator[LocalObjects]:
    store = LocalObjects(ObjectSettings(objects_url=f"file://{tmp_path}"), root=str(tmp_path))
    yield store
    await store.close()
