"""Pictures for tests: coloured things on a ground."""

import io

from PIL import Image, ImageDraw

from services.embedder.models.toy import COLOURS

__all__ = ["encoded", "picture"]


def picture(ground: str = "blue", thing: str = "red", *, size: tuple[int, int] = (200, 150)) -> Image.Image:
    """A disc in the left upper quarter."""
    image = Image.new("RGB", size, COLOURS[ground])
    width, height = size
    ImageDraw.Draw(image).ellipse((width * 0.1, height * 0.1, width * 0.4, height * 0.5), fill=COLOURS[thing])
    return image


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    """The picture as a file."""
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()
