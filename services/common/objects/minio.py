"""Objects in any S3-compatible store, through the MinIO client."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import islice
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.datatypes import Object
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.exceptions import TimeoutError as HTTPTimeoutError

from services.common.errors import DeadlineExceeded, FailedPrecondition, Internal, SaccadeError, Unavailable
from services.common.objects.store import (
    DELETE_BATCH,
    FolderNames,
    ObjectInfo,
    ObjectMissing,
    check_key,
    check_limit,
    check_prefix,
)
from services.common.retry import Guard
from services.common.settings import ObjectSettings
from services.common.threads import Workers

__all__ = ["S3Objects"]

# Longest wait for a connection, in seconds; what is left of a call's time where that is less.
CONNECT_TIMEOUT_S: Final = 5.0
CHUNK_BYTES: Final = 1 << 20
# S3's least part of an upload.
MIN_PART_BYTES: Final = 5 << 20

_MISSING: Final = frozenset({"NoSuchKey", "NoSuchObject", "ResourceNotFound"})
_REFUSED: Final = frozenset(
    {
        "AccessDenied",
        "AuthorizationHeaderMalformed",
        "AllAccessDisabled",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidTokenId",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)
_FULL: Final = frozenset({"XMinioStorageFull", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded"})
_UNAVAILABLE: Final = "OBJECTS_UNAVAILABLE"
_OURS: Final = frozenset({"BucketAlreadyOwnedByYou"})

_T = TypeVar("_T")


class S3Objects:
    """An ObjectStore in a bucket."""

    def __init__(self, settings: ObjectSettings, *, bucket: str, prefix: str = "") -> None:
        """Keep objects in `bucket`, their keys behind `prefix/` where one is given. Connects when first used.

        Raises:
            FailedPrecondition: an endpoint is no http(s)://host:port, or a key is missing.
        """
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._settings = settings
        self._endpoint = settings.s3_endpoint
        self._http = _DeadlinePool(settings.objects_concurrency)
        self._client = _client(settings, settings.s3_endpoint, self._http)
        # Never connects: an address is signed without asking, as long as the region is known.
        self._public = _client(settings, settings.s3_public_endpoint or settings.s3_endpoint, self._http)
        self._guard = Guard("objects", where=f"the object store at {self._endpoint}", reason=_UNAVAILABLE)
        self._workers = Workers("object store", settings.objects_concurrency, settings.objects_timeout_s)

    async def put(self, key: str, data: bytes, *, content_type: str = "application/octet-stream") -> None:
        """See ObjectStore."""
        name = self._name(key)
        # One part, so one request: the client would send several from threads of its own, which know no deadline.
        part_size = max(MIN_PART_BYTES, len(data))
        await self._run(
            lambda: self._client.put_object(
                self._bucket, name, io.BytesIO(data), len(data), content_type=content_type, part_size=part_size
            )
        )

    async def get(self, key: str) -> bytes:
        """See ObjectStore."""
        name = self._name(key)
        return await self._run(lambda: self._read(name))

    async def delete(self, key: str) -> None:
        """See ObjectStore."""
        name = self._name(key)
        await self._run(lambda: self._client.remove_object(self._bucket, name))

    async def delete_prefix(self, prefix: str) -> int:
        """See ObjectStore."""
        start = self._prefix + check_prefix(prefix)
        count = 0
        while removed := await self._run(lambda: self._remove_some(start)):
            count += removed
        return count

    async def list(self, prefix: str, *, start_after: str = "", limit: int = 1000) -> list[ObjectInfo]:
        """See ObjectStore."""
        start = self._prefix + check_prefix(prefix)
        check_limit(limit)
        after = self._prefix + start_after if start_after else None

        def find() -> list[ObjectInfo]:
            found = self._client.list_objects(self._bucket, start, recursive=True, start_after=after)
            return [self._info(item) for item in islice(found, limit)]

        return await self._run(find)

    async def list_folders(self, prefix: str, *, start_after: str = "", limit: int = 1000) -> FolderNames:
        """See ObjectStore."""
        start = self._prefix + check_prefix(prefix, folder=True)
        check_limit(limit)
        # "0" follows "/", so this is behind every key in the folder, and before every folder that comes after it.
        after = f"{start}{start_after}0" if start_after else None
        behind = f"{start_after}/" if start_after else ""

        def names() -> Iterator[str]:
            for item in self._client.list_objects(self._bucket, start, recursive=False, start_after=after):
                name = (item.object_name or "")[len(start) :]
                if item.is_dir and name > behind:
                    yield name.rstrip("/")

        return await self._run(lambda: list(islice(names(), limit)))

    async def presign(self, key: str) -> str:
        """See ObjectStore."""
        return self._public.presigned_get_object(
            self._bucket, self._name(key), expires=timedelta(seconds=self._settings.url_expiry_s)
        )

    async def drafts(self, *, remove: bool) -> int:
        """See ObjectStore: an object is one request here, so that half of one is never kept."""
        del remove
        return 0

    async def check(self) -> None:
        """See ObjectStore; makes the bucket where the settings say so."""

        def probe() -> None:
            if not self._client.bucket_exists(self._bucket):
                if not self._settings.s3_create_bucket:
                    raise self._no_bucket()
                self._make_bucket()
            next(self._client.list_objects(self._bucket, self._prefix, recursive=True), None)

        await self._run(probe)

    async def close(self) -> None:
        """See ObjectStore."""
        self._workers.close()
        self._http.clear()

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _info(self, item: Object) -> ObjectInfo:
        modified_at_ms = int(item.last_modified.timestamp() * 1000) if item.last_modified else 0
        return ObjectInfo((item.object_name or "")[len(self._prefix) :], item.size or 0, modified_at_ms)

    def _read(self, name: str) -> bytes:
        answer = self._client.get_object(self._bucket, name)
        try:
            chunks = []
            for chunk in answer.stream(CHUNK_BYTES):
                self._http.check_time()
                chunks.append(chunk)
        except BaseException:
            answer.close()
            raise
        finally:
            answer.release_conn()
        return b"".join(chunks)

    def _remove_some(self, start: str) -> int:
        found = islice(self._client.list_objects(self._bucket, start, recursive=True), DELETE_BATCH)
        doomed = [DeleteObject(item.object_name or "") for item in found]
        for error in self._client.remove_objects(self._bucket, doomed):
            raise Unavailable(f"the object store did not delete {error.name!r}: {error.message}", reason=_UNAVAILABLE)
        return len(doomed)

    def _make_bucket(self) -> None:
        try:
            self._client.make_bucket(self._bucket, location=self._settings.s3_region)
        except S3Error as exc:
            if exc.code not in _OURS:  # another replica was faster
                raise

    def _no_bucket(self) -> FailedPrecondition:
        return FailedPrecondition(
            f"the bucket {self._bucket!r} does not exist at {self._endpoint}; make it, or set s3_create_bucket",
            reason="BUCKET_MISSING",
        )

    async def _run(self, call: Callable[[], _T]) -> _T:
        def attempt(left_s: float) -> _T:
            self._http.end_at(time.monotonic() + left_s)
            try:
                return call()
            except (MinioException, HTTPError, OSError) as exc:
                raise self._wrapped(exc) from exc

        # All our calls may be repeated.
        return await self._guard.call(lambda: self._workers.run(attempt), again=True)

    def _wrapped(self, exc: Exception) -> SaccadeError:
        where = f"the object store at {self._endpoint}"
        # urllib3 counts a refused connection among the timeouts.
        if isinstance(exc, HTTPTimeoutError) and not isinstance(exc, NewConnectionError):
            return DeadlineExceeded(f"{where} did not answer in time: {exc}")
        if isinstance(exc, S3Error):
            return self._wrapped_s3(exc, where)
        status = 0
        if isinstance(exc, InvalidResponseError):
            status = exc._code
        elif isinstance(exc, ServerError):
            status = exc.status_code
        if isinstance(exc, (HTTPError, OSError)) or status >= 500:
            return Unavailable(f"{where} does not answer: {exc}", reason=_UNAVAILABLE, retry_after_s=1.0)
        return FailedPrecondition(f"{where} does not answer as S3 does: {exc}", reason="OBJECTS_REFUSED")

    def _wrapped_s3(self, exc: S3Error, where: str) -> SaccadeError:
        if exc.code in _MISSING:
            return ObjectMissing(f"there is no object {(exc.object_name or '')[len(self._prefix) :]!r}")
        if exc.code == "NoSuchBucket":
            return self._no_bucket()
        if exc.code in _REFUSED:
            return FailedPrecondition(
                f"{where} refuses us ({exc.code}: {exc.message}); check s3_access_key, s3_secret_key, s3_region and "
                f"the rights on the bucket {self._bucket!r}",
                reason="OBJECTS_REFUSED",
            )
        if exc.code in _FULL:
            return Unavailable(f"{where} is full: {exc.message}", reason="OBJECTS_FULL")
        if exc.response.status >= 500 or exc.code in {"SlowDown", "RequestTimeout"}:
            return Unavailable(
                f"{where} can not answer now ({exc.code}: {exc.message})",
                reason=_UNAVAILABLE,
                retry_after_s=1.0,
            )
        return Internal(f"{where} refused a request ({exc.code}: {exc.message})")


class _DeadlinePool(urllib3.PoolManager):
    """Connections whose every request has what is left of the calling thread's time. Repeats nothing by itself."""

    def __init__(self, size: int) -> None:
        super().__init__(num_pools=4, maxsize=size, retries=False)
        self._thread = threading.local()

    def end_at(self, end: float) -> None:
        """Requests of this thread end by `end`, in seconds of `time.monotonic`, from now on."""
        self._thread.end = end

    def check_time(self) -> None:
        """DeadlineExceeded if the thread's time is over."""
        if self._left_s() <= 0:
            raise DeadlineExceeded("the object store did not send all of the object in time")

    # urllib3's own PoolManager differs from its base in the same way.
    def urlopen(self, method: str, url: str, redirect: bool = True, **kw: Any) -> BaseHTTPResponse:  # type: ignore[override]
        left_s = max(0.001, self._left_s())
        kw["timeout"] = urllib3.Timeout(connect=min(left_s, CONNECT_TIMEOUT_S), read=left_s)
        return super().urlopen(method, url, redirect=redirect, **kw)

    def _left_s(self) -> float:
        end: float = self._thread.end
        return end - time.monotonic()


def _client(settings: ObjectSettings, endpoint: str, http: urllib3.PoolManager) -> Minio:
    url = urlsplit(endpoint)
    if url.scheme not in {"http", "https"} or not url.hostname or url.path.strip("/") or url.query:
        raise FailedPrecondition(
            f"s3_endpoint and s3_public_endpoint must be http(s)://host:port, not {endpoint!r}", reason="OBJECTS_URL"
        )
    access_key = settings.s3_access_key.get_secret_value()
    secret_key = settings.s3_secret_key.get_secret_value()
    if not access_key or not secret_key:
        raise FailedPrecondition("s3:// objects need s3_access_key and s3_secret_key", reason="OBJECTS_CREDENTIALS")
    return Minio(
        url.netloc,
        access_key=access_key,
        secret_key=secret_key,
        secure=url.scheme == "https",
        region=settings.s3_region,
        http_client=http,
    )
