"""Objects as files below a folder: the embedded default, for one machine.

Several processes may use the same folder. A file is written in a folder for drafts and renamed into its place, so that
readers never see half of one. Content types are not kept: they are told from the bytes.
"""

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from services.common.errors import FailedPrecondition, SaccadeError, Unavailable
from services.common.objects.signing import Signer, load_signing_key
from services.common.objects.store import (
    DELETE_BATCH,
    FolderNames,
    ObjectInfo,
    ObjectMissing,
    check_key,
    check_limit,
    check_prefix,
)
from services.common.settings import ObjectSettings
from services.common.threads import Workers

__all__ = ["LocalObjects"]

# Where files under way are, below the root; a key's part never begins with a dot.
DRAFTS: Final = ".drafts"
# A draft is left by a process that was killed if it is older than so many times the longest that a call may take.
_ABANDONED: Final = 10
# How often a write is tried again when a delete takes the emptied folder away beneath it.
MAX_RACES: Final = 100

_T = TypeVar("_T")


class LocalObjects:
    """An ObjectStore in a local folder."""

    def __init__(self, settings: ObjectSettings, *, root: str) -> None:
        """Keep objects below `root`, which is made when first needed."""
        self._root = Path(root)
        self._settings = settings
        self._workers = Workers("local objects", settings.objects_concurrency, settings.objects_timeout_s)
        self._signer: Signer | None = None

    async def put(self, key: str, data: bytes, *, content_type: str = "application/octet-stream") -> None:
        """See ObjectStore; the content type is not kept."""
        del content_type
        path = self._path(key)
        await self._run(lambda: _write(self._root, path, data))

    async def get(self, key: str) -> bytes:
        """See ObjectStore."""
        path = self._path(key)

        def read() -> bytes:
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as exc:
                raise ObjectMissing(f"there is no object {key!r}") from exc

        return await self._run(read)

    async def delete(self, key: str) -> None:
        """See ObjectStore; folders that become empty go too."""
        path = self._path(key)
        await self._run(lambda: _remove(self._root, [path]))

    async def delete_prefix(self, prefix: str) -> int:
        """See ObjectStore."""
        check_prefix(prefix)
        count = 0
        while removed := await self._run(lambda: self._remove_some(prefix)):
            count += removed
        return count

    async def list(self, prefix: str, *, start_after: str = "", limit: int = 1000) -> list[ObjectInfo]:
        """See ObjectStore."""
        check_prefix(prefix)
        check_limit(limit)
        return await self._run(lambda: list(islice(_infos(self._root, prefix, start_after), limit)))

    async def list_folders(self, prefix: str, *, start_after: str = "", limit: int = 1000) -> FolderNames:
        """See ObjectStore."""
        folder = self._root / check_prefix(prefix, folder=True)
        check_limit(limit)
        after = f"{start_after}/" if start_after else ""
        return await self._run(lambda: list(islice(_folders(folder, after), limit)))

    async def presign(self, key: str) -> str:
        """See ObjectStore; the gateway answers such an address with `read_presigned`."""
        check_key(key)
        return (await self._get_signer()).url(key)

    async def read_presigned(self, key: str, expires: str, signature: str) -> tuple[bytes, str]:
        """The bytes behind a presigned address and their media type.

        Raises:
            InvalidArgument: the address is not one that `presign` made.
            NotFound: it has expired, or the object is gone.
        """
        (await self._get_signer()).check(key, expires, signature)
        data = await self.get(key)
        return data, _content_type(key, data)

    async def drafts(self, *, remove: bool) -> int:
        """See ObjectStore."""
        return await self._run(lambda: _abandoned_drafts(self._root, before_s=self._abandoned_before_s, remove=remove))

    async def check(self) -> None:
        """See ObjectStore; makes the folder if it is missing, and removes drafts that killed processes left."""

        def probe() -> None:
            self._root.mkdir(parents=True, exist_ok=True)
            with os.scandir(self._root) as entries:
                next(entries, None)
            _abandoned_drafts(self._root, before_s=self._abandoned_before_s, remove=True)

        await self._run(probe)

    async def close(self) -> None:
        """See ObjectStore."""
        self._workers.close()

    @property
    def _abandoned_before_s(self) -> float:
        return time.time() - _ABANDONED * self._settings.objects_timeout_s

    async def _get_signer(self) -> Signer:
        if self._signer is None:
            secret = await self._run(lambda: load_signing_key(self._root))
            self._signer = Signer(secret, public_url=self._settings.public_url, expiry_s=self._settings.url_expiry_s)
        return self._signer

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _remove_some(self, prefix: str) -> int:
        paths = [self._root / info.key for info in islice(_infos(self._root, prefix, ""), DELETE_BATCH)]
        _remove(self._root, paths)
        return len(paths)

    async def _run(self, call: Callable[[], _T]) -> _T:
        try:
            return await self._workers.run(lambda _left_s: call())
        except OSError as exc:
            raise _wrapped(exc, self._root) from exc


def _wrapped(exc: OSError, root: Path) -> SaccadeError:
    if exc.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}:
        return FailedPrecondition(f"the object folder {root} may not be used: {exc}", reason="OBJECTS_REFUSED")
    if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
        return Unavailable(f"the disk of the object folder {root} is full: {exc}", reason="OBJECTS_FULL")
    return Unavailable(f"the object folder {root} does not work: {exc}", reason="OBJECTS_UNAVAILABLE")


def _write(root: Path, path: Path, data: bytes) -> None:
    draft = root / DRAFTS / secrets.token_hex(8)
    draft.parent.mkdir(parents=True, exist_ok=True)
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        for folder in _place(root, draft, path):
            _sync(folder)
    finally:
        draft.unlink(missing_ok=True)


def _place(root: Path, draft: Path, path: Path) -> list[Path]:
    """Rename the draft; the folders that have changed."""
    for _ in range(MAX_RACES):
        # A delete may take a folder away between two steps, since it is empty for a moment.
        with contextlib.suppress(FileNotFoundError):
            made = _make_folders(root, path.parent)
            draft.replace(path)
            return [path.parent, *(folder.parent for folder in made)]
    raise OSError(errno.EBUSY, "the folder is emptied again and again while an object is written to it", str(path))


def _make_folders(root: Path, folder: Path) -> list[Path]:
    made: list[Path] = []
    missing = [parent for parent in (folder, *folder.parents) if parent.is_relative_to(root)]
    for parent in reversed(missing):
        try:
            parent.mkdir(parents=parent == root)
        except FileExistsError:
            continue
        made.append(parent)
    return made


def _sync(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:  # the object that was written is already deleted again
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _abandoned_drafts(root: Path, *, before_s: float, remove: bool) -> int:
    """Count the drafts that were last written before a time, in seconds since the epoch, and remove them if asked."""
    count = 0
    # One that only reads may lack the right; whoever writes will do it.
    with contextlib.suppress(OSError), os.scandir(root / DRAFTS) as drafts:
        for draft in drafts:
            if draft.stat().st_mtime < before_s:
                count += 1
                if remove:
                    Path(draft).unlink(missing_ok=True)
    return count


def _remove(root: Path, paths: list[Path]) -> None:
    folders = set()
    for path in paths:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            path.unlink()
        folders.add(path.parent)
    for folder in folders:
        _remove_empty(root, folder)


def _remove_empty(root: Path, folder: Path) -> None:
    while folder != root:
        try:
            folder.rmdir()
        except FileNotFoundError:
            pass
        except OSError:  # not empty
            return
        folder = folder.parent


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """(name, whether it is a folder), in the order of keys: a folder's keys go on with a '/'."""
    try:
        with os.scandir(folder) as found:
            entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found if entry.name[0] != "."]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(entries, key=lambda entry: f"{entry[0]}/" if entry[1] else entry[0])


def _keys(root: Path, folder: str, prefix: str, start_after: str) -> Iterator[str]:
    """Keys below `folder` ('' or ending in '/') in order, going only where keys can fit."""
    for name, is_folder in _entries(root / folder):
        key = f"{folder}{name}/" if is_folder else f"{folder}{name}"
        if not key.startswith(prefix) and not (is_folder and prefix.startswith(key)):
            continue
        if not is_folder:
            if key > start_after:
                yield key
        # All keys of a folder lie between its name and whatever does not begin with its name.
        elif key > start_after or start_after.startswith(key):
            yield from _keys(root, key, prefix, start_after)


def _infos(root: Path, prefix: str, start_after: str) -> Iterator[ObjectInfo]:
    folder = prefix[: prefix.rfind("/") + 1]
    for key in _keys(root, folder, prefix, start_after):
        try:
            stat = (root / key).stat()
        except (FileNotFoundError, NotADirectoryError):  # deleted meanwhile
            continue
        yield ObjectInfo(key, stat.st_size, stat.st_mtime_ns // 1_000_000)


def _folders(folder: Path, after: str) -> Iterator[str]:
    for name, is_folder in _entries(folder):
        if is_folder and f"{name}/" > after and _has_object(folder / name):
            yield name


def _has_object(folder: Path) -> bool:
    """An empty folder is one that is about to be filled or to go: no folder of an object store."""
    return any(not is_folder or _has_object(folder / name) for name, is_folder in _entries(folder))


_SIGNATURES: Final = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
)


def _content_type(key: str, data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    for signature, content_type in _SIGNATURES:
        if data.startswith(signature):
            return content_type
    return "application/json" if key.endswith(".json") else "application/octet-stream"
