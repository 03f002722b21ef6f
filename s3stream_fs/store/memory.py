"""An object store in memory: the fake of the tests, held to the same contract suite as the real one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import md5
from typing import Final

import trio

from s3stream_fs.errors import Archived, NotFound, ObjectChanged, StoreError
from s3stream_fs.store import Deliver
from s3stream_fs.types import NANOSECONDS, ByteRange, ListPage, ObjectId, ObjectInfo

_PIECE_NBYTES: Final = 1024 * 1024
"""A store may deliver in any pieces; several of them make a fault in the middle possible."""


@dataclass
class _Failure:
    kind: str
    error: StoreError
    times: int
    after_nbytes: int


class MemoryStore:
    """Objects by key. ``requests`` tells what was asked for: (kind, key or prefix), and a GET's start and stop.

    While ``gate`` is an Event, every request waits for it, after it was noted; while ``answer_late`` is one, every LIST
    waits for it with its answer in hand. ``seconds``, where it is set, says how long each request takes, one after the
    other. A ``directory_bucket`` lists as those of S3 Express One Zone do. Bodies are delivered as they come or, where
    ``in_pieces`` is False, at their end, as a real store's client does with small ones.
    """

    def __init__(self, page_limit: int = 1000, *, directory_bucket: bool = False, in_pieces: bool = True) -> None:
        self._page_limit = page_limit
        self._directory_bucket = directory_bucket
        self.in_pieces = in_pieces
        self._objects: dict[str, tuple[ObjectInfo, bytes]] = {}
        self._failures: list[_Failure] = []
        self.requests: list[tuple[str | int, ...]] = []
        self.gate: trio.Event | None = None
        self.answer_late: trio.Event | None = None
        self.seconds: Iterator[float] | None = None

    @property
    def lists_any_prefix(self) -> bool:
        return not self._directory_bucket

    def put(self, key: str, data: bytes = b"", storage_class: str = "STANDARD") -> ObjectId:
        object_id = ObjectId(key, md5(data, usedforsecurity=False).hexdigest(), len(data))
        self._objects[key] = (ObjectInfo(object_id, NANOSECONDS, storage_class), data)
        return object_id

    def delete(self, key: str) -> None:
        del self._objects[key]

    def restore(self, key: str) -> None:
        """Make an archived object readable."""
        info, data = self._objects[key]
        self._objects[key] = (info._replace(restored=True), data)

    def fail_next(self, kind: str, error: StoreError, times: int = 1, after_nbytes: int = 0) -> None:
        """Let the next requests of a kind (HEAD, LIST, GET) fail, a GET after so many bytes were delivered."""
        self._failures.append(_Failure(kind, error, times, after_nbytes))

    def count(self, kind: str) -> int:
        return sum(request[0] == kind for request in self.requests)

    async def head(self, key: str) -> ObjectInfo:
        failure = await self._begin("HEAD", key)
        if failure is not None:
            raise failure.error.again()
        return self._get(key)[0]

    async def list_page(
        self, prefix: str, *, token: str | None = None, after: str = "", limit: int = 1000, flat: bool = False
    ) -> ListPage:
        failure = await self._begin("LIST", prefix)
        if failure is not None:
            raise failure.error.again()
        page = self._page(prefix, token, after, limit, flat)
        if self.answer_late is not None:
            await self.answer_late.wait()
        return page

    def _page(self, prefix: str, token: str | None, after: str, limit: int, flat: bool) -> ListPage:
        if self._directory_bucket:
            return self._scattered_page(prefix, token, after, limit, flat)
        keys = sorted(self._objects, key=str.encode)
        encoded = [key.encode() for key in keys]
        index = bisect_right(encoded, (token or after).encode())
        objects: list[ObjectInfo] = []
        prefixes: list[str] = []
        last = token or ""
        for key in keys[index:]:
            if not key.startswith(prefix):
                continue
            head, slash, _ = key[len(prefix) :].partition("/")
            rolled_up = prefix + head + slash if slash and not flat else ""
            if rolled_up and (rolled_up in prefixes or rolled_up == last):
                continue  # a page's token may be a common prefix: what lies below it is not listed again
            if len(objects) + len(prefixes) == min(limit, self._page_limit):
                return ListPage(tuple(objects), tuple(prefixes), last)
            if rolled_up:
                prefixes.append(rolled_up)
            else:
                objects.append(self._objects[key][0])
            last = rolled_up or key
        return ListPage(tuple(objects), tuple(prefixes), None)

    def _scattered_page(self, prefix: str, token: str | None, after: str, limit: int, flat: bool) -> ListPage:
        if after or (prefix and not prefix.endswith("/")):
            raise StoreError("400 InvalidArgument")
        names: dict[str, ObjectInfo | None] = {}
        for key, (info, _) in self._objects.items():
            if key.startswith(prefix):
                head, slash, _rest = key[len(prefix) :].partition("/")
                names[key if flat else prefix + head + slash] = info if flat or not slash else None
        # Any order that stays the same.
        order = sorted(names, key=lambda name: md5(name.encode(), usedforsecurity=False).digest())
        start = order.index(token) + 1 if token is not None else 0
        page = order[start : start + min(limit, self._page_limit)]
        infos = [names[name] for name in page]
        more = start + len(page) < len(order)
        return ListPage(
            tuple(info for info in infos if info is not None),
            tuple(name for name, info in zip(page, infos, strict=True) if info is None),
            page[-1] if more else None,
        )

    async def get_range(self, object_id: ObjectId, byte_range: ByteRange, deliver: Deliver) -> None:
        failure = await self._begin("GET", object_id.key, byte_range.start, byte_range.stop)
        info, data = self._get(object_id.key)
        if info.id != object_id or byte_range.stop > info.id.size:
            raise ObjectChanged("412")
        if info.archived:
            raise Archived("403 InvalidObjectState")
        stop = byte_range.stop if failure is None else min(byte_range.start + failure.after_nbytes, byte_range.stop)
        if self.in_pieces:
            for start in range(byte_range.start, stop, _PIECE_NBYTES):
                deliver(memoryview(data)[start : min(start + _PIECE_NBYTES, stop)])
                await trio.lowlevel.checkpoint()
        elif failure is None:
            deliver(memoryview(data)[byte_range.start : stop])
        if failure is not None:
            raise failure.error.again()

    async def _begin(self, *request: str | int) -> _Failure | None:
        self.requests.append(request)
        await trio.lowlevel.checkpoint()
        if self.gate is not None:
            await self.gate.wait()
        if self.seconds is not None:
            await trio.sleep(next(self.seconds))
        for failure in self._failures:
            if failure.kind == request[0] and failure.times > 0:
                failure.times -= 1
                return failure
        return None

    def _get(self, key: str) -> tuple[ObjectInfo, bytes]:
        found = self._objects.get(key)
        if found is None:
            raise NotFound("404 NoSuchKey")
        return found
