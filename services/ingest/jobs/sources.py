"""Where an import takes images from: a bucket, a folder of the service's machine, or addresses.

A source names its items in an order that stays, so that an import knows by the last name which ones are done.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit

from services.common.errors import FailedPrecondition, InvalidArgument, InvalidImage, NotFound
from services.common.fetch import ImageFetcher
from services.common.objects import LocalObjects, ObjectStore
from services.common.objects.minio import S3Objects
from services.common.objects.store import check_prefix
from services.common.settings import ObjectSettings
from services.ingest.settings import IngestSettings

__all__ = ["Addresses", "Bucket", "Folder", "Source", "check_bucket", "check_folder"]


class Source(Protocol):
    """Images to be."""

    async def page(self, after: str, limit: int) -> list[tuple[str, str]]:
        """Cursor and name of the first items behind a cursor; "" is the start."""
        ...

    async def read(self, name: str) -> bytes:
        """An item's bytes; InvalidArgument or NotFound where there are none that can be used."""
        ...

    async def close(self) -> None:
        """Let go of it."""
        ...


class _Objects:
    """Objects below a prefix of a store; the cursor is the key."""

    def __init__(self, objects: ObjectStore, prefix: str, *, max_bytes: int) -> None:
        self._objects = objects
        self._prefix = check_prefix(prefix)
        self._max_bytes = max_bytes
        self._sizes: dict[str, int] = {}

    async def page(self, after: str, limit: int) -> list[tuple[str, str]]:
        """See Source."""
        found = await self._objects.list(self._prefix, start_after=after, limit=limit)
        self._sizes = {info.key: info.size_bytes for info in found}
        return [(info.key, info.key) for info in found]

    async def read(self, name: str) -> bytes:
        """See Source; what is too large is not read."""
        if self._sizes.get(name, 0) > self._max_bytes:
            raise InvalidImage(
                f"has {self._sizes[name]:,} bytes; at most {self._max_bytes:,} are taken", reason="IMAGE_TOO_LARGE"
            )
        return await self._objects.get(name)

    async def close(self) -> None:
        """See Source."""
        await self._objects.close()


class Bucket(_Objects):
    """Objects of a bucket in the S3 store that the service uses."""

    def __init__(self, settings: ObjectSettings, bucket: str, prefix: str, *, max_bytes: int) -> None:
        """Read below `prefix`; FailedPrecondition where the store's credentials are missing."""
        super().__init__(S3Objects(settings, bucket=bucket), prefix, max_bytes=max_bytes)


class Folder(_Objects):
    """Files below a folder. A link that leads out of it is no item."""

    def __init__(self, settings: ObjectSettings, folder: Path, *, max_bytes: int) -> None:
        """Read below `folder`, which `check_folder` gave."""
        super().__init__(LocalObjects(settings, root=str(folder)), "", max_bytes=max_bytes)
        self._folder = folder

    async def read(self, name: str) -> bytes:
        """See Source."""
        inside = await asyncio.to_thread(lambda: (self._folder / name).resolve().is_relative_to(self._folder.resolve()))
        if not inside:
            raise InvalidArgument("leads out of the folder", reason="IMPORT_LINK")
        return await super().read(name)


class Addresses:
    """Web addresses; the cursor is the number of those that are done."""

    def __init__(self, fetcher: ImageFetcher, urls: Sequence[str]) -> None:
        """Fetch these."""
        self._fetcher = fetcher
        self._urls = urls

    async def page(self, after: str, limit: int) -> list[tuple[str, str]]:
        """See Source."""
        start = int(after or 0)
        return [(str(i), url) for i, url in enumerate(self._urls[start : start + limit], start=start + 1)]

    async def read(self, name: str) -> bytes:
        """See Source."""
        return await self._fetcher.fetch(name, field="")

    async def close(self) -> None:
        """See Source; the fetcher is not its own."""


def check_bucket(settings: IngestSettings, bucket: str) -> None:
    """FailedPrecondition unless images may be imported from this bucket."""
    allowed = {name.strip() for name in settings.import_buckets.split(",")} - {""}
    if bucket not in allowed:
        raise _not_allowed(
            "bucket.bucket",
            f"images can not be imported from the bucket {bucket!r}: SACCADE_INGEST_IMPORT_BUCKETS names "
            f"{', '.join(sorted(allowed)) or 'none'}",
        )
    own = urlsplit(settings.objects_url)
    if own.scheme == "s3" and own.netloc == bucket:
        raise _not_allowed("bucket.bucket", _OWN)


def check_folder(settings: IngestSettings, url: str) -> Path:
    """The folder that `file:///...` names.

    Raises:
        FailedPrecondition: no folder may be imported from, or not this one.
        InvalidArgument: this is no such address.
        NotFound: there is no such folder.
    """
    if not settings.import_root:
        raise _not_allowed(
            "folder", "images can not be imported from folders here: SACCADE_INGEST_IMPORT_ROOT names none"
        )
    folder = _folder(url)
    if folder is None:
        raise InvalidArgument("is file:///folder", field="folder")
    if not folder.is_relative_to(Path(settings.import_root).resolve()):
        raise _not_allowed(
            "folder",
            "images are imported from folders below the one that SACCADE_INGEST_IMPORT_ROOT names, and from no others",
        )
    own = _folder(settings.objects_url)
    if own is not None and (folder.is_relative_to(own) or own.is_relative_to(folder)):
        raise _not_allowed("folder", _OWN)
    if not folder.is_dir():
        raise NotFound("there is no such folder", field="folder", reason="FOLDER_NOT_FOUND")
    return folder


# Whoever may import into one collection would see what is in all others.
_OWN: Final = "the images of all collections are kept there; import from another place"


def _folder(url: str) -> Path | None:
    """The folder that an address names; None where it names none."""
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
        return None
    return Path(unquote(parts.path)).resolve()


def _not_allowed(field: str, message: str) -> FailedPrecondition:
    return FailedPrecondition(message, field=field, reason="IMPORT_NOT_ALLOWED")
