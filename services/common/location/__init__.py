"""Image files without what tells where a picture was taken, their pixels untouched.

Cameras and editors write places into many corners of a file: the GPS directory of EXIF, XMP, IPTC, notes of the
camera's maker, comments, telemetry, a film behind the picture. So what is kept is what is known to be none: pixels,
colours, animation, and the fields of EXIF that say how the picture was taken and which way is up. All else goes, with
whatever stands behind the picture's end. Nothing is encoded anew.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from services.common.location import gif, jpeg, png, tiff, webp
from services.common.location.tiff import orientation_of

__all__ = ["check_metadata", "orientation_of", "without_location"]


class _Form(NamedTuple):
    check: Callable[[bytes], None]
    scrubbed: Callable[[bytes], bytes]


_TIFF: Final = _Form(tiff.check_file, tiff.scrubbed_file)
_FORMS: Final = {
    b"\xff\xd8\xff": _Form(jpeg.check, jpeg.scrubbed),
    b"\x89PNG": _Form(png.check, png.scrubbed),
    b"RIFF": _Form(webp.check, webp.scrubbed),
    b"GIF8": _Form(gif.check, gif.scrubbed),
    b"II": _TIFF,
    b"MM": _TIFF,
}


def without_location(data: bytes) -> bytes:
    """The same picture without places; a format that carries none, such as BMP, comes back as it is.

    Raises:
        InvalidImage: reason IMAGE_METADATA, as `check_metadata` does.
    """
    form = _form(data)
    return form.scrubbed(data) if form is not None else data


def check_metadata(data: bytes) -> None:
    """Refuse what is made to exhaust a decoder by its metadata: nothing is decoded.

    Raises:
        InvalidImage: reason IMAGE_METADATA.
    """
    form = _form(data)
    if form is not None:
        form.check(data)


def _form(data: bytes) -> _Form | None:
    return next((form for magic, form in _FORMS.items() if data.startswith(magic)), None)
