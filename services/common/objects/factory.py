"""From settings to a store."""

from urllib.parse import unquote, urlsplit

from services.common.errors import FailedPrecondition
from services.common.objects.local import LocalObjects
from services.common.objects.minio import S3Objects
from services.common.objects.store import ObjectStore
from services.common.settings import ObjectSettings

__all__ = ["open_object_store"]


def open_object_store(settings: ObjectSettings) -> ObjectStore:
    """The store that `objects_url` names; it connects when first used.

    Raises:
        FailedPrecondition: the URL is neither `s3://bucket[/prefix]` nor `file:///folder`.
    """
    url = urlsplit(settings.objects_url)
    if url.query or url.fragment:
        raise _unknown(settings.objects_url)
    if url.scheme == "s3" and url.netloc:
        return S3Objects(settings, bucket=url.netloc, prefix=url.path.strip("/"))
    if url.scheme == "file" and url.netloc in {"", "localhost"} and url.path.strip("/"):
        return LocalObjects(settings, root=unquote(url.path))
    raise _unknown(settings.objects_url)


def _unknown(url: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"objects_url must be s3://bucket[/prefix] or file:///folder, not {url!r}", reason="OBJECTS_URL"
    )
