import hashlib
import io
from collections.abc import AsyncIterator

import pytest
from PIL import Image

from services.common.errors import InvalidImage
from services.common.images import ImageLimits
from services.ingest.intake import Intake
from tests.unit.common.location.located import PLACE, located


@pytest.fixture
async def intake() -> AsyncIterator[Intake]:
    intake = Intake(ImageLimits(max_bytes=100_000), thumbnail_px=32, workers=2)
    yield intake
    await intake.close()


def jpeg(width: int = 120, height: int = 60) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((width, height), 50).convert("RGB").save(out, "JPEG")
    return out.getvalue()


async def test_what_is_learnt_of_a_picture(intake: Intake) -> None:
    data = jpeg()
    content = await intake.inspect(data)
    assert (content.info.content_type, content.info.width, content.info.height) == ("image/jpeg", 120, 60)
    assert content.sha256 == hashlib.sha256(data).hexdigest()
    with Image.open(io.BytesIO(content.thumbnail)) as small:
        assert (small.format, small.size) == ("WEBP", (32, 16))
    assert await intake.thumbnail(data) == content.thumbnail


async def test_places_are_not_kept_and_the_file_is_known_again(intake: Intake) -> None:
    data = located("jpeg")
    content = await intake.inspect(data)
    assert PLACE not in content.data
    assert PLACE not in content.thumbnail
    assert content.sha256 == hashlib.sha256(data).hexdigest()
    assert content.stored_sha256 == hashlib.sha256(content.data).hexdigest()
    again = await intake.inspect(content.data)
    assert (again.data, again.stored_sha256) == (content.data, "")


async def test_places_are_kept_on_purpose() -> None:
    keeping = Intake(ImageLimits(), thumbnail_px=32, workers=1, keep_location=True)
    data = located("jpeg")
    content = await keeping.inspect(data)
    assert (content.data, content.stored_sha256) == (data, "")
    with Image.open(io.BytesIO(content.thumbnail)) as small:
        assert not small.getexif()
    await keeping.close()


async def test_an_id_is_made_from_the_content(intake: Intake) -> None:
    data = jpeg()
    made = (await intake.inspect(data)).derived_id
    assert len(made) == 26
    assert set(made) <= set("abcdefghijklmnopqrstuvwxyz234567")
    assert made == (await intake.inspect(data)).derived_id
    assert made != (await intake.inspect(jpeg())).derived_id


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "IMAGE_EMPTY"),
        (b"no picture", "IMAGE_FORMAT"),
        (jpeg()[:-300], "IMAGE_TRUNCATED"),
        (jpeg(4, 4), "IMAGE_TOO_SMALL"),
        (b"\xff\xd8\xff" + b"x" * 100_000, "IMAGE_TOO_LARGE"),
    ],
)
async def test_what_is_no_picture_is_refused_before_it_is_stored(intake: Intake, data: bytes, reason: str) -> None:
    with pytest.raises(InvalidImage) as caught:
        await intake.inspect(data, "image.url")
    assert (caught.value.reason, caught.value.field) == (reason, "image.url")
