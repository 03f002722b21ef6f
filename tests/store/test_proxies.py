"""Which requests go through a proxy: one reading of the environment, for every library below."""

from __future__ import annotations

import pytest

from s3stream_fs.errors import UsageError
from s3stream_fs.store.s3.proxies import read_proxies

PROXY = "http://proxy:3128"


@pytest.mark.parametrize(
    ("environ", "url", "expected"),
    [
        ({}, "https://store", None),
        ({"HTTPS_PROXY": PROXY}, "https://store", PROXY),
        ({"HTTPS_PROXY": PROXY}, "http://store", None),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://other:1"}, "https://store", PROXY),
        ({"HTTP_PROXY": PROXY}, "http://store:9000/bucket", PROXY),
        ({"ALL_PROXY": PROXY}, "http://store", PROXY),
        ({"all_proxy": PROXY, "https_proxy": "http://other:1"}, "https://store", "http://other:1"),
        ({"https_proxy": "", "ALL_PROXY": PROXY}, "https://store", PROXY),
        ({"https_proxy": "proxy:3128"}, "https://store", PROXY),
    ],
)
def test_the_variable_for_the_scheme_counts(environ: dict[str, str], url: str, expected: str | None) -> None:
    assert read_proxies(environ).proxy_of(url) == expected


@pytest.mark.parametrize(
    ("exceptions", "url", "direct"),
    [
        ("store", "http://store:9000", True),
        ("store", "http://bucket.store:9000", True),
        ("store", "http://mystore:9000", False),
        (".store", "http://bucket.store", True),
        (".store", "http://store", True),
        ("*.store", "http://bucket.store", True),
        ("STORE", "http://Store", True),
        ("store:9000", "http://store:9000", True),
        ("store:9000", "http://store:9001", False),
        ("store:80", "http://store", True),
        ("127.0.0.1", "http://127.0.0.1:9000", True),
        ("127.0.0.1:9000", "http://127.0.0.1:9000", True),
        ("127.0.0.1:9001", "http://127.0.0.1:9000", False),
        ("127.0.0.0/8", "http://127.1.2.3:9000", True),
        ("10.0.0.0/8", "http://127.0.0.1:9000", False),
        ("10.0.0.0/8", "http://store", False),
        ("::1", "http://[::1]:9000", True),
        ("[::1]", "http://[::1]:9000", True),
        ("[::1]:9000", "http://[::1]:9000", True),
        ("fd00::/8", "http://[fd12::1]", True),
        ("a, b ,store", "http://store", True),
        ("a b store", "http://store", True),
        ("*", "http://anything", True),
        ("", "http://store", False),
        (".", "http://store", False),
        ("300.0.0.0/8", "http://store", False),
    ],
)
def test_no_proxy(exceptions: str, url: str, direct: bool) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        found = read_proxies({"ALL_PROXY": PROXY, name: exceptions}).proxy_of(url)
        assert found == (None if direct else PROXY)


@pytest.mark.parametrize(
    "proxy", ["socks5://user:secret@host:1", "http://user:secret@", "http://host:secret", "ftp://h"]
)
def test_what_cannot_be_used_is_named_without_its_password(proxy: str) -> None:
    with pytest.raises(UsageError, match="https_proxy names a proxy") as caught:
        read_proxies({"https_proxy": proxy}).proxy_of("https://store")
    assert "secret" not in str(caught.value)
    # Where it is not needed it does not matter.
    assert read_proxies({"https_proxy": proxy, "no_proxy": "store"}).proxy_of("https://store") is None
