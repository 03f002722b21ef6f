"""The simulated S3 against a model of it: bytes, listings, counters, faults, and what may not end it."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from bench import content
from bench.simulated import SimulatedS3
from bench.simulator.behaviour import PRESETS, Behaviour, Fault, RequestRate
from bench.simulator.bucket import Bucket, RealFile, Source, Tree, parse_size

BUCKET = "bench"
PATIENCE_SECONDS = 10.0
STALLED_SECONDS = 0.3
"""Of silence, after which a test takes it that nothing more will come."""

LONG_NBYTES = 35_000_000
"""More than twice round the pattern."""

TREES = ("flat:7:1000", "folders:8:100:3", "nested/deep:2:0", "middle:2:300KB", f"long:1:{LONG_NBYTES}")
FILES = ("a first", "flat.txt", "flat0", "folders.json", "odd/ü +&<%25>#?.txt", "odd/x", "z/last")
"""Real files, before, between and behind the trees; none of them in one."""

FILE_BYTES = random.Random(3).randbytes(200_000)

KEYS = sorted(
    [
        *(f"flat/{index:07d}.bin" for index in range(7)),
        *(f"folders/{index // 3:04d}/{index:07d}.bin" for index in range(8)),
        *(f"nested/deep/{index:07d}.bin" for index in range(2)),
        *(f"middle/{index:07d}.bin" for index in range(2)),
        "long/0000000.bin",
        *FILES,
    ]
)
FLAT, MIDDLE, LONG = "flat/0000003.bin", "middle/0000001.bin", "long/0000000.bin"
NBYTES = {FLAT: 1000, MIDDLE: 300_000, LONG: LONG_NBYTES, "flat.txt": len(FILE_BYTES)}


class Answered(NamedTuple):
    status: int
    headers: Mapping[str, str]
    """By name in lower case."""
    body: bytes

    def json(self) -> Any:
        assert self.status == 200, self.body
        return json.loads(self.body)


def taken(response: http.client.HTTPResponse) -> Answered:
    body = response.read()
    return Answered(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


class Client:
    """One connection, kept."""

    def __init__(self, url: str, timeout: float = PATIENCE_SECONDS) -> None:
        self.connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout)

    def begun(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> http.client.HTTPResponse:
        self.connection.request(method, target, body, dict(headers or {}))
        return self.connection.getresponse()

    def ask(self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answered:
        return taken(self.begun(method, target, headers, body or None))

    def get(self, key: str, byte_range: str = "", **headers: str) -> Answered:
        if byte_range:
            headers["Range"] = f"bytes={byte_range}"
        return self.ask("GET", f"/{BUCKET}/{quote(key)}", headers)

    def counters(self) -> Any:
        return self.ask("GET", "/-/counters").json()

    def come_to(self, name: str, value: int) -> bool:
        """Whether a counter comes to ``value``. That a client has left takes the server a moment to hear."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if self.counters()[name] == value:
                return True
        return False

    def change(self, **settings: object) -> Answered:
        return self.ask("POST", "/-/settings", body=json.dumps(settings).encode())

    def overwrite(self, key: str) -> bool:
        overwritten: bool = self.ask("POST", f"/-/overwrite?key={quote(key)}").json()["overwritten"]
        return overwritten

    def close(self) -> None:
        self.connection.close()


class Raw:
    """A connection whose every packet is the test's own."""

    def __init__(self, url: str) -> None:
        host, port = urlsplit(url).netloc.split(":")
        self.socket = socket.create_connection((host, int(port)), PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file: BufferedReader = self.socket.makefile("rb")

    def send(self, *requests: str) -> None:
        self.socket.sendall("".join(requests).encode())

    def answer(self, method: str = "GET") -> Answered:
        status = int(self._file.readline().split()[1])
        headers = {}
        while line := self._file.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = b"" if method == "HEAD" else self._file.read(int(headers["content-length"]))
        return Answered(status, headers, body)

    def read(self, nbytes: int) -> bytes:
        return self._file.read(nbytes)

    def ended(self) -> bool:
        try:
            return not self.read(1)
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._file.close()
        self.socket.close()


def request(target: str, method: str = "GET", **headers: str) -> str:
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *(f"{name}: {text}" for name, text in headers.items())]
    return "\r\n".join([*lines, "", ""])


def expected(key: str, start: int = 0, stop: int | None = None, version: int = 0) -> bytes:
    """An object's bytes, up to three times round the pattern."""
    stop = NBYTES[key] if stop is None else stop
    if key in FILES:
        return FILE_BYTES[start:stop]
    twice = content.pattern()
    at = (content.place(key, 0, version) + start) % content.PERIOD_NBYTES
    if at + stop - start > len(twice):
        twice += twice
    return twice[at : at + stop - start]


@contextmanager
def started(folder: Path, trees: Iterable[str] = TREES, files: Iterable[str] = FILES) -> Iterator[str]:
    path = folder / "file"
    path.write_bytes(FILE_BYTES)
    with SimulatedS3(list(trees), dict.fromkeys(files, path)) as server:
        yield server.url


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with started(tmp_path_factory.mktemp("simulator")) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    """Of a server that behaves and has counted nothing yet."""
    with closing(Client(url)) as client:
        assert client.change(preset="none", bandwidth=None, max_rate=None, faults={}, seed=1).status == 200
        assert client.ask("POST", "/-/reset").status == 200
        yield client


@pytest.fixture
def raw(url: str, client: Client) -> Iterator[Raw]:
    with closing(Raw(url)) as raw:
        yield raw


@pytest.fixture
def fresh_url(tmp_path: Path) -> Iterator[str]:
    """A server of this test's own, since it may not live through it."""
    with started(tmp_path, ["flat:7:1000"], []) as url:
        yield url


@pytest.fixture(scope="module")
def s3_of_module(url: str) -> Iterator[Any]:
    config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, read_timeout=PATIENCE_SECONDS)
    s3 = boto3.client(
        "s3", "us-east-1", endpoint_url=url, aws_access_key_id="any", aws_secret_access_key="any", config=config
    )
    yield s3
    s3.close()


@pytest.fixture
def s3(s3_of_module: Any, client: Client) -> Any:
    return s3_of_module


@pytest.fixture
def real_file(tmp_path: Path) -> Iterator[Callable[[str], RealFile]]:
    path = tmp_path / "real"
    path.write_bytes(FILE_BYTES)
    with ExitStack() as files:

        def make(key: str) -> RealFile:
            file = RealFile(key, path)
            fd = file.item(0).fd
            assert fd is not None
            files.callback(os.close, fd)
            return file

        yield make


def still_answers(url: str) -> bool:
    with closing(Client(url)) as client:
        return client.get(FLAT).body == expected(FLAT)


# The content itself.


def test_content_matches_only_its_own_key_offset_and_version() -> None:
    data = expected(FLAT, 10, 500)
    assert content.matches(FLAT, 10, data)
    assert content.matches(FLAT, 10, memoryview(data))
    assert not content.matches(FLAT, 11, data)
    assert not content.matches(MIDDLE, 10, data)
    assert not content.matches(FLAT, 10, data, version=1)
    assert not content.matches(FLAT, 10, data[:-1] + bytes([data[-1] ^ 1]))


def test_content_longer_than_the_pattern_is_compared_to_its_end() -> None:
    data = bytearray(expected(LONG))
    assert content.matches(LONG, 0, data)
    data[-1] ^= 1
    assert not content.matches(LONG, 0, data)


def test_a_filled_file_is_the_object(tmp_path: Path) -> None:
    content.fill(LONG, tmp_path / "long", LONG_NBYTES)
    assert (tmp_path / "long").read_bytes() == expected(LONG)


# Objects.


@pytest.mark.parametrize("key", NBYTES)
def test_a_whole_object_is_its_content(client: Client, key: str) -> None:
    answer = client.get(key)
    assert answer.status == 200
    assert answer.headers["etag"] == f'"{content.digest(key)}"'
    assert int(answer.headers["content-length"]) == NBYTES[key]
    assert answer.body == expected(key)


@pytest.mark.parametrize("key", NBYTES)
@pytest.mark.parametrize(
    ("first", "last"),
    [(0, 0), (0, None), (1, 1), (100, 899), (999, 999), (500, 10**12), (10, None), (None, 1), (None, 300), (-1, -1)],
)
def test_a_range_is_that_part_of_the_content(client: Client, key: str, first: int | None, last: int | None) -> None:
    nbytes = NBYTES[key]
    if first == -1:  # the last byte, by its offset
        first = last = nbytes - 1
    answer = client.get(key, f"{'' if first is None else first}-{'' if last is None else last}")
    if first is None:
        assert last is not None
        start, stop = nbytes - last, nbytes
    else:
        start, stop = first, nbytes if last is None else min(last + 1, nbytes)
    assert answer.status == 206
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{nbytes}"
    assert answer.body == expected(key, start, stop)


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (content.PERIOD_NBYTES - 5, content.PERIOD_NBYTES + 5),
        (3, content.PERIOD_NBYTES + 3),
        (3, content.PERIOD_NBYTES + 4),
        (1, 2 * content.PERIOD_NBYTES + 2),
        (LONG_NBYTES - 200_000, LONG_NBYTES),
    ],
)
def test_ranges_round_the_end_of_the_pattern_are_right(client: Client, start: int, stop: int) -> None:
    assert client.get(LONG, f"{start}-{stop - 1}").body == expected(LONG, start, stop)


def test_a_suffix_longer_than_the_object_is_all_of_it(client: Client) -> None:
    answer = client.get(FLAT, "-5000")
    assert answer.headers["content-range"] == "bytes 0-999/1000"
    assert answer.body == expected(FLAT)


@pytest.mark.parametrize(
    ("key", "byte_range"), [(FLAT, "1000-"), (FLAT, "1000-1000"), (FLAT, "-0"), ("nested/deep/0000000.bin", "0-0")]
)
def test_a_range_behind_the_end_is_refused_with_416(s3: Any, key: str, byte_range: str) -> None:
    with pytest.raises(ClientError) as raised:
        s3.get_object(Bucket=BUCKET, Key=key, Range=f"bytes={byte_range}")
    assert raised.value.response["Error"]["Code"] == "InvalidRange"
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 416


def test_an_empty_object_is_empty(client: Client) -> None:
    answer = client.get("nested/deep/0000000.bin")
    assert (answer.status, answer.body) == (200, b"")


def test_bytes_are_right_under_a_cap_of_bandwidth(client: Client) -> None:
    client.change(bandwidth=500e6)
    for key in (MIDDLE, "flat.txt"):
        assert client.get(key).body == expected(key)


def test_if_match_lets_the_right_etag_pass(s3: Any) -> None:
    for etag in (f'"{content.digest(FLAT)}"', content.digest(FLAT), "*"):
        answer = s3.get_object(Bucket=BUCKET, Key=FLAT, IfMatch=etag, Range="bytes=5-9")
        assert answer["Body"].read() == expected(FLAT, 5, 10)


def test_if_match_refuses_another_etag_with_412(s3: Any, client: Client) -> None:
    with pytest.raises(ClientError) as raised:
        s3.get_object(Bucket=BUCKET, Key=FLAT, IfMatch=content.digest(MIDDLE))
    assert raised.value.response["Error"]["Code"] == "PreconditionFailed"
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    assert client.ask("HEAD", f"/{BUCKET}/{FLAT}", {"If-Match": '"other"'}).status == 412


@pytest.mark.parametrize("key", NBYTES)
def test_head_tells_size_and_etag(s3: Any, key: str) -> None:
    answer = s3.head_object(Bucket=BUCKET, Key=key)
    assert answer["ContentLength"] == NBYTES[key]
    assert answer["ETag"] == f'"{content.digest(key)}"'
    assert answer["LastModified"].year == 2026


@pytest.mark.parametrize("key", ["none", "flat/0000007.bin", "flat/0000000", "flat/", "flat", "flat/000000\u0663.bin"])
def test_an_unknown_key_is_not_found(s3: Any, key: str) -> None:
    with pytest.raises(ClientError) as raised:
        s3.get_object(Bucket=BUCKET, Key=key)
    assert raised.value.response["Error"]["Code"] == "NoSuchKey"
    with pytest.raises(ClientError) as raised:
        s3.head_object(Bucket=BUCKET, Key=key)
    assert raised.value.response["Error"]["Code"] == "404"


def test_an_unknown_bucket_is_not_found(s3: Any) -> None:
    for call, wanted in ((s3.get_object, {"Key": FLAT}), (s3.list_objects_v2, {})):
        with pytest.raises(ClientError) as raised:
            call(Bucket="other", **wanted)
        assert raised.value.response["Error"]["Code"] == "NoSuchBucket"
        assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404


def test_a_bucket_answers_what_clients_ask_first(s3: Any) -> None:
    assert s3.head_bucket(Bucket=BUCKET)["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert s3.get_bucket_location(Bucket=BUCKET)["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert s3.get_bucket_versioning(Bucket=BUCKET)["ResponseMetadata"]["HTTPStatusCode"] == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
def test_writing_is_refused_with_405_and_the_connection_goes_on(client: Client, method: str) -> None:
    answer = client.ask(method, f"/{BUCKET}/{FLAT}", body=b"" if method == "DELETE" else b"x" * 5000)
    assert answer.status == 405
    assert b"<Code>MethodNotAllowed</Code>" in answer.body
    assert client.get(FLAT).body == expected(FLAT)


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        (f"/{BUCKET}/{FLAT}", {}),
        (f"/{BUCKET}/none", {}),
        (f"/{BUCKET}/{FLAT}", {"If-Match": '"other"'}),
        (f"/{BUCKET}/{FLAT}", {"Range": "bytes=1000-"}),
        (f"/other/{FLAT}", {}),
        ("/other", {}),
    ],
    ids=["found", "not-found", "etag", "range", "object-of-no-bucket", "no-bucket"],
)
def test_the_answer_to_head_has_no_body(raw: Raw, target: str, headers: dict[str, str]) -> None:
    raw.send(request(target, "HEAD", **headers), request(f"/{BUCKET}/{FLAT}", Range="bytes=0-4"))
    assert raw.answer("HEAD").status in (200, 404, 412, 416)
    # What follows on the connection is the next answer, and nothing that was left of the first.
    assert raw.answer() == (206, {"content-length": "5"} | _headers_of(FLAT, "bytes 0-4/1000"), expected(FLAT, 0, 5))


def _headers_of(key: str, content_range: str) -> dict[str, str]:
    return {
        "etag": f'"{content.digest(key)}"',
        "content-range": content_range,
        "last-modified": "Thu, 01 Jan 2026 00:00:00 GMT",
        "accept-ranges": "bytes",
        "content-type": "application/octet-stream",
    }


def test_the_answer_to_head_has_no_body_when_it_comes_too_often(raw: Raw, client: Client) -> None:
    client.change(max_rate=0.001)
    raw.send(request(f"/{BUCKET}/{FLAT}", "HEAD") * 2, request("/-/counters"))
    assert [raw.answer("HEAD").status for _ in range(2)][-1] == 503
    assert raw.answer().json()["requests"]["HEAD"] == 2


# Listings.


class Listed(NamedTuple):
    """What a listing gave, all pages together: keys and common prefixes in the order in which they came."""

    keys: list[str]
    prefixes: list[str]


def modelled(prefix: str, delimiter: str = "", after: str = "") -> Listed:
    """What S3 would list."""
    keys: list[str] = []
    prefixes: list[str] = []
    for key in KEYS:
        if not key.startswith(prefix) or key <= after:
            continue
        head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
        if not found:
            keys.append(key)
        elif prefix + head + delimiter not in prefixes:
            prefixes.append(prefix + head + delimiter)
    return Listed(keys, prefixes)


def pages_of(s3: Any, version: int, max_keys: int, **wanted: str) -> list[dict[str, Any]]:
    paginator = s3.get_paginator("list_objects_v2" if version == 2 else "list_objects")
    # MaxKeys and not PageSize: the paginator adds nothing of its own.
    return list(paginator.paginate(Bucket=BUCKET, MaxKeys=max_keys, **wanted))


def listed(pages: Iterable[Mapping[str, Any]]) -> Listed:
    keys, prefixes = [], []
    for page in pages:
        keys += [found["Key"] for found in page.get("Contents", ())]
        prefixes += [found["Prefix"] for found in page.get("CommonPrefixes", ())]
    return Listed(keys, prefixes)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("delimiter", ["", "/"])
@pytest.mark.parametrize(
    "prefix",
    ["", "f", "flat", "flat/", "flat/0000003.bin", "folders/", "folders/0001/", "folders/0001/00", "nested/d", "none/"],
)
def test_a_listing_gives_exactly_the_keys_in_order_on_pages_of_any_size(
    s3: Any, version: int, delimiter: str, prefix: str
) -> None:
    wanted = {"Prefix": prefix} | ({"Delimiter": delimiter} if delimiter else {})
    model = modelled(prefix, delimiter)
    for max_keys in (1, 2, 3, 4, 5, 6, 7, 1000):
        pages = pages_of(s3, version, max_keys, **wanted)
        assert listed(pages) == model
        sizes = [len(page.get("Contents", ())) + len(page.get("CommonPrefixes", ())) for page in pages]
        assert all(size == max_keys for size in sizes[:-1])
        assert sizes[-1] <= max_keys
        assert [page["IsTruncated"] for page in pages] == [True] * (len(pages) - 1) + [False]
        if version == 2:
            assert [page["KeyCount"] for page in pages] == sizes


@pytest.mark.parametrize("delimiter", ["00", "i", "deep/", "."])
def test_any_text_may_be_the_delimiter(s3: Any, delimiter: str) -> None:
    for version in (1, 2):
        for max_keys in (1, 3):
            assert listed(pages_of(s3, version, max_keys, Delimiter=delimiter)) == modelled("", delimiter)


def test_a_listing_tells_size_and_etag(s3: Any) -> None:
    found = s3.list_objects_v2(Bucket=BUCKET)["Contents"]
    by_key = {each["Key"]: (each["Size"], each["ETag"]) for each in found}
    assert by_key.keys() == set(KEYS)
    for key, nbytes in NBYTES.items():
        assert by_key[key] == (nbytes, f'"{content.digest(key)}"')


AFTERS = ["a", "flat", "flat/0000003.bin", "flat/0000003.bi", "flat/0000003.bin!", "flat0", "folders/0001/", "zz"]


@pytest.mark.parametrize("after", AFTERS)
def test_a_listing_starts_behind_start_after_or_marker(s3: Any, after: str) -> None:
    assert listed(pages_of(s3, 2, 4, StartAfter=after)) == modelled("", "", after)
    assert listed(pages_of(s3, 1, 4, Marker=after)) == modelled("", "", after)
    assert listed(pages_of(s3, 2, 4, StartAfter=after, Prefix="folders/")) == modelled("folders/", "", after)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("prefix", ["flat/", "folders/", "folders/0001/"])
def test_a_listing_that_starts_after_its_own_prefix_or_a_parent_is_whole(s3: Any, version: int, prefix: str) -> None:
    for after in {prefix, prefix.partition("/")[0] + "/"}:
        pages = pages_of(s3, version, 1000, Prefix=prefix, Delimiter="/", **_start(version, after))
        assert listed(pages) == modelled(prefix, "/")


@pytest.mark.parametrize("version", [1, 2])
def test_a_listing_that_starts_after_a_common_prefix_goes_on_with_the_next(s3: Any, version: int) -> None:
    pages = pages_of(s3, version, 1000, Delimiter="/", **_start(version, "folders/"))
    assert listed(pages) == Listed([], ["long/", "middle/", "nested/", "odd/", "z/"])


def _start(version: int, after: str) -> dict[str, str]:
    return {"StartAfter" if version == 2 else "Marker": after}


def test_a_listing_quotes_names_when_asked_to(client: Client) -> None:
    def names(**query: str) -> list[str]:
        body = client.ask("GET", f"/{BUCKET}?{urlencode({'list-type': '2', 'prefix': 'odd/'} | query)}").body.decode()
        return re.findall(r"<Key>(.*?)</Key>", body)

    assert names() == ["odd/x", "odd/ü +&amp;&lt;%25&gt;#?.txt"]
    assert names(**{"encoding-type": "url"}) == ["odd/x", "odd/%C3%BC%20%2B%26%3C%2525%3E%23%3F.txt"]


def test_an_odd_name_is_listed_by_its_prefix_and_found(s3: Any) -> None:
    key = "odd/ü +&<%25>#?.txt"
    for version in (1, 2):
        assert listed(pages_of(s3, version, 1, Prefix=key[:-4])) == Listed([key], [])
        assert listed(pages_of(s3, version, 1, Prefix="odd/", Delimiter="+")).prefixes == ["odd/ü +"]
    assert s3.get_object(Bucket=BUCKET, Key=key, Range="bytes=0-9")["Body"].read() == FILE_BYTES[:10]


def test_every_listed_key_is_found(s3: Any) -> None:
    for each in s3.list_objects_v2(Bucket=BUCKET)["Contents"]:
        assert s3.head_object(Bucket=BUCKET, Key=each["Key"])["ETag"] == each["ETag"]


def test_max_keys_of_0_lists_nothing(fresh_url: str) -> None:
    for version in ("1", "2"):
        with closing(Client(fresh_url)) as client:
            answer = client.ask("GET", f"/{BUCKET}?list-type={version}&max-keys=0")
        assert answer.status == 200
        assert b"<IsTruncated>false</IsTruncated>" in answer.body
        assert b"<Key>" not in answer.body


@pytest.mark.parametrize("query", ["max-keys=many", "max-keys=-1", "continuation-token=zz", "continuation-token=ff"])
def test_a_listing_refuses_nonsense_with_400(fresh_url: str, query: str) -> None:
    with closing(Client(fresh_url)) as client:
        assert client.ask("GET", f"/{BUCKET}?list-type=2&{query}").status == 400
    assert still_answers(fresh_url)


# The bucket, without a server.


def test_every_key_is_found_though_another_begins_like_it(real_file: Callable[[str], RealFile]) -> None:
    bucket = Bucket([real_file("data"), Tree("data", 3, 10), real_file("data.idx")])
    keys = [item.key for item in bucket.page("", "", "", 1000).items]
    assert keys == ["data", "data.idx", *(f"data/{index:07d}.bin" for index in range(3))]
    assert [key for key in keys if bucket.find(key) is None] == []


def test_what_would_not_be_listed_in_order_is_refused(real_file: Callable[[str], RealFile]) -> None:
    nested: list[Source] = [Tree("data", 3, 10), real_file("data/last")]
    for sources in (nested, [Tree("t", 3, 10), Tree("t", 4, 10)]):
        with pytest.raises(ValueError, match=r"another tree|same name"):
            Bucket(sources)
    with pytest.raises(ValueError, match="folders"):
        Tree("t", 10_003, 10, per_folder=1)


@pytest.mark.parametrize("per_folder", [0, 1, 4])
def test_a_tree_finds_its_keys_and_where_to_go_on(per_folder: int) -> None:
    tree = Tree("t", 10, 5, per_folder)
    keys = [tree.key(index) for index in range(10)]
    assert [tree.index_from(key) for key in keys] == list(range(10))
    assert [tree.index_from(key + "\0") for key in keys] == list(range(1, 11))
    found = [tree.find(key) for key in keys]
    assert [item.key for item in found if item is not None] == keys


@pytest.mark.parametrize(("text", "nbytes"), [("0", 0), ("100KB", 100_000), ("8MiB", 8 << 20), (" 4 gib ", 4 << 30)])
def test_sizes_are_read_with_their_units(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "KB", "1.5MB", "-1", "1XB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["small", "small:1", ":1:1", "a:b:1", "a:1:x", "a:1:1:1:1", "a:-1:1", "a:1:1:-1"])
def test_what_is_no_tree_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Tree.parse(text)


# Versions.


def test_an_overwritten_object_has_another_etag_and_other_bytes(fresh_url: str) -> None:
    with closing(Client(fresh_url)) as client:
        before = client.get(FLAT)
        assert client.overwrite(FLAT)
        after = client.get(FLAT)
        assert after.headers["etag"] == f'"{content.digest(FLAT, 1)}"' != before.headers["etag"]
        assert after.body == expected(FLAT, version=1) != before.body
        assert client.get(FLAT, **{"If-Match": before.headers["etag"]}).status == 412
        assert client.overwrite(FLAT)
        assert client.get(FLAT, "10-19").body == expected(FLAT, 10, 20, version=2)
        assert content.digest(FLAT, 2).encode() in client.ask("GET", f"/{BUCKET}?list-type=2").body
        # Its neighbour is what it was.
        assert client.get("flat/0000004.bin", "0-99").body == expected("flat/0000004.bin", 0, 100)


def test_what_is_not_there_is_not_overwritten(client: Client) -> None:
    assert not client.overwrite("flat/0000007.bin")
    assert not client.overwrite("flat.txt")


# Counters.


def test_requests_and_bytes_are_counted_by_kind(client: Client) -> None:
    client.get(FLAT)
    client.get(FLAT, "0-99")
    client.get("none")
    client.ask("HEAD", f"/{BUCKET}/{FLAT}")
    listing = client.ask("GET", f"/{BUCKET}?list-type=2")
    client.ask("GET", f"/{BUCKET}?location")
    client.ask("PUT", f"/{BUCKET}/{FLAT}", body=b"x")
    counters = client.counters()
    assert counters["requests"] == {"GET": 3, "HEAD": 1, "LIST": 1, "OTHER": 2}
    assert counters["nbytes"] == {"GET": 1100, "HEAD": 0, "LIST": len(listing.body), "OTHER": 0}


def test_answers_are_counted_by_status(client: Client) -> None:
    for _ in range(2):
        client.get(FLAT)
        client.get(FLAT, "0-99")
    client.get("none")
    client.get(FLAT, "1000-")
    client.get(FLAT, **{"If-Match": "other"})
    assert client.counters()["statuses"] == {"200": 2, "206": 2, "404": 1, "412": 1, "416": 1}


def test_answers_to_head_are_counted_by_status_too(client: Client) -> None:
    for key in (FLAT, MIDDLE, LONG, "none"):
        client.ask("HEAD", f"/{BUCKET}/{key}")
    assert client.counters()["statuses"] == {"200": 3, "404": 1}


def test_what_was_fetched_is_counted_by_key(client: Client) -> None:
    for byte_range in ("0-99", "50-149", ""):
        client.get(FLAT, byte_range)
    client.get(MIDDLE, "0-9")
    assert client.ask("GET", "/-/keys").json() == {FLAT: [3, 1200], MIDDLE: [1, 10]}
    assert client.ask("GET", "/-/keys?prefix=mid").json() == {MIDDLE: [1, 10]}


def test_a_reset_counts_afresh(client: Client) -> None:
    client.get(FLAT)
    open_before = client.counters()["connections_open"]
    assert client.ask("POST", "/-/reset").json() == {}
    none = dict.fromkeys(("GET", "HEAD", "LIST", "OTHER"), 0)
    assert client.ask("GET", "/-/keys").json() == {}
    counters = client.counters()
    assert (counters["requests"], counters["nbytes"]) == (none, none)
    assert (counters["connections"], counters["connections_open"]) == (0, open_before)


def test_connections_are_counted_once_each_however_much_they_carry(client: Client, url: str) -> None:
    open_before = client.counters()["connections_open"]
    with closing(Client(url)) as other:
        for _ in range(3):
            other.get(FLAT)
        counters = client.counters()
        assert (counters["connections"], counters["connections_open"]) == (1, open_before + 1)
    assert client.come_to("connections_open", open_before)
    assert client.counters()["connections"] == 1


def test_what_is_in_flight_is_counted_until_its_end(client: Client, url: str) -> None:
    client.change(faults={Fault.STALL: 1.0})
    with ExitStack() as stack:
        for count in range(1, 4):
            raw = stack.enter_context(closing(Raw(url)))
            raw.send(request(f"/{BUCKET}/{FLAT}"))
            raw.read(1)  # so that it is under way
            assert client.counters()["in_flight"] == count
    assert client.come_to("in_flight", 0)
    assert client.counters()["max_in_flight"] == 3
    assert client.ask("POST", "/-/reset").status == 200
    assert client.counters()["max_in_flight"] == 0


def test_a_client_that_leaves_in_the_middle_is_not_in_flight_any_more(client: Client, url: str) -> None:
    with closing(Raw(url)) as raw:
        raw.send(request(f"/{BUCKET}/{LONG}", Range="bytes=0-16000000"))
        raw.read(1000)
        assert client.counters()["in_flight"] == 1
    assert client.come_to("in_flight", 0)
    assert client.get(FLAT).body == expected(FLAT)


# Faults.


def faulty(client: Client, fault: Fault) -> None:
    assert client.change(faults={fault: 1.0}).status == 200


def counted(client: Client, fault: Fault) -> None:
    assert client.counters()["faults"] == {fault: 1}


def test_fault_503_is_slow_down(s3: Any, client: Client) -> None:
    faulty(client, Fault.SLOW_DOWN)
    with pytest.raises(ClientError) as raised:
        s3.get_object(Bucket=BUCKET, Key=FLAT)
    assert raised.value.response["Error"]["Code"] == "SlowDown"
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    counted(client, Fault.SLOW_DOWN)


def test_fault_reset_resets_the_connection_without_an_answer(raw: Raw, client: Client) -> None:
    faulty(client, Fault.RESET)
    raw.send(request(f"/{BUCKET}/{FLAT}"))
    with pytest.raises(ConnectionResetError):
        raw.read(1)
    counted(client, Fault.RESET)
    assert client.counters()["in_flight"] == 0


@pytest.mark.parametrize("key", [FLAT, MIDDLE, "flat.txt"])
def test_fault_stall_sends_half_and_then_nothing(client: Client, url: str, key: str) -> None:
    faulty(client, Fault.STALL)
    nbytes = NBYTES[key]
    with closing(Client(url, timeout=STALLED_SECONDS)) as other:
        response = other.begun("GET", f"/{BUCKET}/{key}")
        assert response.getheader("Content-Length") == str(nbytes)
        assert response.read(nbytes // 2) == expected(key, 0, nbytes // 2)
        with pytest.raises(TimeoutError):
            response.read(1)
        assert client.counters()["in_flight"] == 1
        response.close()
    counted(client, Fault.STALL)
    assert client.come_to("in_flight", 0)


@pytest.mark.parametrize("key", NBYTES)
def test_fault_truncate_sends_half_and_ends_the_connection(client: Client, url: str, key: str) -> None:
    faulty(client, Fault.TRUNCATE)
    with closing(Client(url)) as other, pytest.raises(http.client.IncompleteRead) as raised:
        other.get(key)
    assert raised.value.partial == expected(key, 0, NBYTES[key] // 2)
    counted(client, Fault.TRUNCATE)
    assert client.counters()["in_flight"] == 0


def test_fault_etag_tells_another_etag_with_the_same_bytes(client: Client) -> None:
    faulty(client, Fault.ETAG)
    answer = client.get(FLAT, **{"If-Match": content.digest(FLAT)})
    assert answer.status == 200
    assert answer.headers["etag"] != f'"{content.digest(FLAT)}"'
    assert answer.body == expected(FLAT)
    counted(client, Fault.ETAG)


@pytest.mark.parametrize("key", NBYTES)
@pytest.mark.parametrize("byte_range", ["", "5-5", "100-899"])
def test_fault_flip_changes_one_byte(client: Client, key: str, byte_range: str) -> None:
    right = client.get(key, byte_range).body
    faulty(client, Fault.FLIP)
    flipped = client.get(key, byte_range).body
    counted(client, Fault.FLIP)
    assert len(flipped) == len(right)
    difference = int.from_bytes(flipped, "big") ^ int.from_bytes(right, "big")
    assert difference
    assert (difference.bit_length() - 1) // 8 == ((difference & -difference).bit_length() - 1) // 8


def test_fault_flip_changes_another_byte_each_time(client: Client) -> None:
    faulty(client, Fault.FLIP)
    assert len({client.get(FLAT).body for _ in range(10)}) == 10


def test_etags_may_be_the_digests_of_bytes() -> None:
    with SimulatedS3(TREES, {}, md5=True) as server:
        client = Client(server.url)
        for key in (FLAT, MIDDLE, LONG):
            answer = client.get(key)
            assert answer.headers["etag"] == f'"{hashlib.md5(answer.body).hexdigest()}"'
        assert client.overwrite(FLAT)
        answer = client.get(FLAT)
        assert answer.headers["etag"] == f'"{hashlib.md5(answer.body).hexdigest()}"'
        client.connection.close()


def test_no_fault_is_met_by_head_and_listings(s3: Any, client: Client) -> None:
    faulty(client, Fault.SLOW_DOWN)
    assert s3.head_object(Bucket=BUCKET, Key=FLAT)["ContentLength"] == 1000
    assert listed([s3.list_objects_v2(Bucket=BUCKET)]) == modelled("")
    assert client.counters()["faults"] == {}


def test_faults_come_as_often_as_they_are_told_to() -> None:
    behaviour = Behaviour(faults={Fault.RESET: 0.2, Fault.FLIP: 0.1})
    drawn = [behaviour.fault() for _ in range(10_000)]
    assert drawn.count(Fault.RESET) == pytest.approx(2_000, rel=0.1)
    assert drawn.count(Fault.FLIP) == pytest.approx(1_000, rel=0.1)
    assert drawn.count(None) == pytest.approx(7_000, rel=0.1)


# Rates and delays.


def test_more_requests_than_the_rate_admits_are_told_to_slow_down(raw: Raw, client: Client) -> None:
    client.change(max_rate=20)
    # In one packet: they all come at the same time, at which two may be admitted.
    raw.send(request(f"/{BUCKET}/{FLAT}") * 10)
    answers = [raw.answer() for _ in range(10)]
    assert [answer.status for answer in answers] == [200] * 2 + [503] * 8
    assert all(b"<Code>SlowDown</Code>" in answer.body for answer in answers[2:])
    assert client.counters()["faults"] == {"503": 8}


def test_each_top_level_folder_has_a_rate_of_its_own(raw: Raw, client: Client) -> None:
    client.change(max_rate=10)
    keys = ["folders/0001/0000003.bin", "z/last", "folders/0002/0000006.bin", "z/last"]
    raw.send(*(request(f"/{BUCKET}/{key}", Range="bytes=0-9") for key in keys))
    assert [raw.answer().status for _ in keys] == [206, 206, 503, 503]


@pytest.mark.parametrize("per_second", [1.0, 5.0, 50.0, 200.0])
def test_what_a_rate_admits_is_the_rate(per_second: float) -> None:
    rate = RequestRate()
    # Twenty times as many as may be, for ten seconds.
    asked = [number / per_second / 20 for number in range(int(200 * per_second))]
    admitted = sum(rate.admits("folder", per_second, now) for now in asked)
    assert admitted == pytest.approx(10 * per_second, rel=0.1)


def test_presets_delay_by_kind() -> None:
    behaviour = Behaviour(PRESETS["30ms"])
    assert [behaviour.delay(kind) for kind in ("GET", "HEAD", "LIST")] == pytest.approx([0.030, 0.033, 0.060])
    assert Behaviour().delay("GET") == Behaviour().delay("HEAD") == Behaviour().delay("LIST") == 0


def test_the_hot_preset_is_as_it_was_measured() -> None:
    behaviour = Behaviour(PRESETS["hot"])
    drawn = sorted(behaviour.delay("GET") for _ in range(20_000))
    assert 0.010 <= drawn[10_000] <= 0.012
    assert 0.054 <= drawn[19_800] <= 0.090


# Settings.


@pytest.mark.parametrize(
    "body",
    [
        '{"preset"',
        '{"preset": "fast"}',
        '{"preset": ["none"]}',
        '{"bandwidth": "much"}',
        '{"bandwidth": -1}',
        '{"max_rate": [1]}',
        '{"max_rate": -1}',
        '{"faults": {"fire": 1}}',
        '{"faults": {"503": "often"}}',
        '{"faults": {"503": -0.5}}',
        '{"faults": {"503": 1.5}}',
        '{"seed": [1]}',
        '{"no_such_setting": 1}',
        "[]",
        "7",
    ],
)
def test_settings_refuse_nonsense_with_400(client: Client, body: str) -> None:
    assert client.ask("POST", "/-/settings", body=body.encode()).status == 400


@pytest.mark.parametrize("body", ['{"faults": ["503"]}', '{"faults": "503"}'])
def test_settings_refuse_faults_without_shares_with_400(fresh_url: str, body: str) -> None:
    with closing(Client(fresh_url)) as client:
        assert client.ask("POST", "/-/settings", body=body.encode()).status == 400
    assert still_answers(fresh_url)


def test_settings_that_are_not_named_stay(client: Client) -> None:
    faulty(client, Fault.ETAG)
    assert client.change(bandwidth=1e9).status == 200
    client.get(FLAT)
    counted(client, Fault.ETAG)


@pytest.mark.parametrize(("method", "target"), [("GET", "/-/nothing"), ("GET", "/-/reset"), ("POST", "/-/counters")])
def test_unknown_control_requests_are_not_found(client: Client, method: str, target: str) -> None:
    assert client.ask(method, target).status == 404


# HTTP.


def test_a_request_may_come_in_many_packets(raw: Raw, client: Client) -> None:
    text = request(f"/{BUCKET}/{FLAT}", Range="bytes=7-16")
    for start in range(0, len(text), 9):
        raw.send(text[start : start + 9])
        client.counters()  # answered, so what was sent before has been read
    assert raw.answer().body == expected(FLAT, 7, 17)


def test_a_body_may_come_after_its_head(raw: Raw, client: Client) -> None:
    body = json.dumps({"faults": {Fault.ETAG: 1.0}})
    raw.send(request("/-/settings", "POST", **{"Content-Length": str(len(body))}))
    for part in (body[:5], body[5:]):
        assert client.get(FLAT).headers["etag"] == f'"{content.digest(FLAT)}"'
        raw.send(part)
    assert raw.answer().status == 200
    assert client.get(FLAT).headers["etag"] != f'"{content.digest(FLAT)}"'


def test_two_pipelined_requests_are_answered_in_their_order(raw: Raw) -> None:
    raw.send(request(f"/{BUCKET}/{MIDDLE}"), request(f"/{BUCKET}/{FLAT}", Range="bytes=0-9"))
    assert raw.answer().body == expected(MIDDLE)
    assert raw.answer().body == expected(FLAT, 0, 10)


def test_as_many_pipelined_requests_as_anyone_sends_are_answered(fresh_url: str) -> None:
    with closing(Raw(fresh_url)) as raw:
        raw.send(request(f"/{BUCKET}/{FLAT}", Range="bytes=0-9") * 500)
        assert all(raw.answer().body == expected(FLAT, 0, 10) for _ in range(500))


def test_a_target_may_be_absolute(raw: Raw, url: str) -> None:
    raw.send(request(f"{url}/{BUCKET}/{FLAT}"), request(f"{url}/{BUCKET}?list-type=2&prefix=flat/&max-keys=1"))
    assert raw.answer().body == expected(FLAT)
    assert raw.answer().body.count(b"<Key>") == 1


def test_an_absolute_target_may_have_no_path(fresh_url: str) -> None:
    with closing(Raw(fresh_url)) as raw:
        raw.send(request(fresh_url))
        assert raw.answer().status == 404
    assert still_answers(fresh_url)


@pytest.mark.parametrize("text", ["nonsense\r\n\r\n", "GET /\r\n\r\n", "\0" * 70_000])
def test_what_is_no_request_ends_its_connection_only(raw: Raw, url: str, text: str) -> None:
    raw.send(text)
    assert raw.ended()
    assert still_answers(url)
