from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.common.objects import ObjectStore, open_object_store
from services.common.settings import ObjectSettings


@pytest.fixture
async def objects(tmp_path: Path) -> AsyncIterator[ObjectStore]:
    store = open_object_store(ObjectSettings(objects_url=f"file://{tmp_path}"))
    yield store
    await store.close()
