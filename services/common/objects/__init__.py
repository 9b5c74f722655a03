"""Where the images are kept: any S3-compatible store, or a local folder."""

from services.common.objects.factory import open_object_store
from services.common.objects.local import LocalObjects
from services.common.objects.store import ObjectInfo, ObjectMissing, ObjectStore

__all__ = ["LocalObjects", "ObjectInfo", "ObjectMissing", "ObjectStore", "open_object_store"]
