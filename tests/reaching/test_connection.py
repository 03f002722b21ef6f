"""What the mount command is told about the way to the store holds for names and for bytes alike.

Each setting is given alone, from each place that may hold it, and then what both planes have sent is looked at: the
LISTs and the GETs that came to the store, to a proxy, and to another store that must hear nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from amazon import Amazon
from authority import Authority, Identity
from forwardproxy import Address, ForwardProxy
from loopback import Answer, Request
from mounting import CommandLine, Environment, Mount, MountFailed, Option, tree_of
from smalls3 import Seen, SmallS3, error
from strict import StrictServer

Mounted = Callable[..., Mount]

OBJECTS = {"a/one": b"first", "two words": b"second" * 1000}
TREE: dict[str, bytes | None] = {"a": None, **OBJECTS}

HOME_REGION = "eu-west-1"
POINT = "training-123456789012"
POINT_ARN = "arn:aws:s3:eu-west-1:123456789012:accesspoint/training"
EXPRESS = "data--usw2-az1--x-s3"

SECONDS_AT_MOST = 12.0
"""What cannot succeed is told within seconds: before the 15 s in which a start is tried again. A bound, not a speed."""


@pytest.fixture
def store() -> Iterator[SmallS3]:
    with SmallS3({"bucket": OBJECTS}) as started:
        yield started


@pytest.fixture
def other() -> Iterator[SmallS3]:
    """A store that nobody means: same bucket, same names, other bytes."""
    with SmallS3({"bucket": {name: data.upper() for name, data in OBJECTS.items()}}) as started:
        yield started


@pytest.fixture
def amazon(tmp_path: Path) -> Iterator[Amazon]:
    homes = {"bucket": HOME_REGION, "dotted.bucket": HOME_REGION, POINT: HOME_REGION, EXPRESS: "us-west-2"}
    with Amazon(tmp_path / "amazon", dict.fromkeys(homes, OBJECTS), homes) as started:
        yield started


@pytest.fixture
def configured(tmp_path: Path) -> Callable[[str], dict[str, str | None]]:
    """``configured(text)``: an environment in which ~/.aws/config says this."""

    def write(text: str) -> dict[str, str | None]:
        (tmp_path / "config").write_text(text)
        return {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_DEFAULT_REGION": None}

    return write


def planes(seen: list[Seen]) -> list[Seen]:
    """All LISTs and GETs, of which there is at least one each."""
    assert {"LIST", "GET"} <= {one.kind for one in seen}
    return [one for one in seen if one.kind in ("LIST", "GET")]


def refused(mounted: Mounted, *given: object, **options: object) -> MountFailed:
    """The mount command fails within seconds, in one line."""
    started = time.monotonic()
    with pytest.raises(MountFailed) as raised:
        mounted(*given, **options)
    seconds = time.monotonic() - started
    assert seconds < SECONDS_AT_MOST, f"{seconds:.1f} s: {raised.value.stderr}"
    assert len(raised.value.stderr.strip().splitlines()) == 1, raised.value.stderr
    assert "Traceback" not in raised.value.stderr
    return raised.value


# -- endpoint

_SERVICES = "[default]\nservices = mine\n[services mine]\ns3 =\n  endpoint_url = {url}\n"

ENDPOINTS: Mapping[str, Callable[[str], tuple[dict[str, str], str, dict[str, Option]]]] = {
    "--endpoint-url": lambda url: ({}, "", {"endpoint_url": url}),
    "S3STREAM_FS_ENDPOINT_URL": lambda url: ({"S3STREAM_FS_ENDPOINT_URL": url}, "", {}),
    "AWS_ENDPOINT_URL_S3": lambda url: ({"AWS_ENDPOINT_URL_S3": url}, "", {}),
    "AWS_ENDPOINT_URL": lambda url: ({"AWS_ENDPOINT_URL": url}, "", {}),
    "services section": lambda url: ({}, _SERVICES.format(url=url), {}),
    "profile": lambda url: ({}, f"[default]\nendpoint_url = {url}\n", {}),
    "--profile": lambda url: ({}, f"[profile mine]\nendpoint_url = {url}\n", {"profile": "mine"}),
}  # fmt: skip
"""Where an endpoint may stand: variables, the text of ~/.aws/config, options. What stands first here goes first."""


@pytest.mark.parametrize(
    ("place", "host"),
    [
        *((place, "127.0.0.1") for place in ENDPOINTS),
        ("--endpoint-url", "localhost"),
        ("AWS_ENDPOINT_URL", "localhost"),
    ],
)
def test_endpoint(
    store: SmallS3,
    mounted: Mounted,
    configured: Callable[[str], dict[str, str | None]],
    place: str,
    host: str,
) -> None:
    variables, text, options = ENDPOINTS[place](store.url_at(host))
    keys = "[mine]\naws_access_key_id = testing\naws_secret_access_key = testing\n"
    env = configured(text or "[default]\n") | variables
    if "profile" in options:
        file = Path(str(env["AWS_CONFIG_FILE"])).with_name("credentials")
        file.write_text(keys)
        env["AWS_SHARED_CREDENTIALS_FILE"] = str(file)
    mount = mounted(store, "bucket", env=env, **{"endpoint_url": None, **options})
    assert tree_of(mount.path) == TREE
    for one in planes(store.seen):
        assert not one.virtual
        assert one.bucket == "bucket"
        assert one.request.host == host
        assert not one.request.is_absolute


@pytest.mark.parametrize(
    ("place", "over"),
    [
        ("--endpoint-url", "AWS_ENDPOINT_URL_S3"),
        ("--endpoint-url", "profile"),
        ("S3STREAM_FS_ENDPOINT_URL", "AWS_ENDPOINT_URL"),
        ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        ("AWS_ENDPOINT_URL", "profile"),
        ("services section", "profile"),
    ],
)
def test_the_endpoint_that_counts_hears_both_planes_and_the_other_none(
    store: SmallS3,
    other: SmallS3,
    mounted: Mounted,
    configured: Callable[[str], dict[str, str | None]],
    place: str,
    over: str,
) -> None:
    variables, text, options = ENDPOINTS[place](store.url)
    other_variables, other_text, _ = ENDPOINTS[over](other.url)
    if text and other_text:  # both in the one profile
        other_text = other_text.removeprefix("[default]\n")
        text = text.replace("[default]\n", f"[default]\n{other_text}")
    env = configured(text or other_text or "[default]\n") | other_variables | variables
    mount = mounted(store, "bucket", env=env, **{"endpoint_url": None, **options})
    assert tree_of(mount.path) == TREE
    planes(store.seen)
    assert other.seen == []


@pytest.mark.parametrize("place", ["variable", "profile"])
def test_configured_endpoints_can_be_ignored(
    amazon: Amazon,
    other: SmallS3,
    mounted: Mounted,
    configured: Callable[[str], dict[str, str | None]],
    place: str,
) -> None:
    text, variables = f"[default]\nendpoint_url = {other.url}\n", {"AWS_ENDPOINT_URL_S3": other.url}
    if place == "variable":
        variables["AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"] = "true"
    else:
        text += "ignore_configured_endpoint_urls = true\n"
    env = configured(text) | variables | amazon.environment | {"AWS_REGION": HOME_REGION}
    mount = mounted(amazon.proxy, "bucket", env=env, endpoint_url=None)
    assert tree_of(mount.path) == TREE
    planes(amazon.seen)
    assert other.seen == []


def test_two_stores_that_only_a_variable_tells_apart_share_a_cache_and_nothing_else(
    store: SmallS3, other: SmallS3, mounted: Mounted, tmp_path: Path
) -> None:
    trees = []
    for asked in (store, other, store):
        env = {"AWS_ENDPOINT_URL": asked.url}
        mount = mounted(asked, "bucket", env=env, endpoint_url=None, cache_dir=tmp_path / "cache", metadata_ttl="1h")
        trees.append(tree_of(mount.path))
        mount.umount()
    assert trees[0] == trees[2] == TREE
    assert trees[1] == {"a": None, **{name: data.upper() for name, data in OBJECTS.items()}}


# -- region

REGIONS: Mapping[str, Callable[[str], tuple[dict[str, str], str, dict[str, Option]]]] = {
    "--region": lambda region: ({}, "", {"region": region}),
    "S3STREAM_FS_REGION": lambda region: ({"S3STREAM_FS_REGION": region}, "", {}),
    "AWS_REGION": lambda region: ({"AWS_REGION": region}, "", {}),
    "AWS_DEFAULT_REGION": lambda region: ({"AWS_DEFAULT_REGION": region}, "", {}),
    "profile": lambda region: ({}, f"[default]\nregion = {region}\n", {}),
}
"""As ENDPOINTS."""


@pytest.mark.parametrize("place", REGIONS)
def test_region(
    store: SmallS3,
    mounted: Mounted,
    configured: Callable[[str], dict[str, str | None]],
    place: str,
) -> None:
    variables, text, options = REGIONS[place]("ap-south-1")
    # All that go after it say something else.
    after = list(REGIONS)[list(REGIONS).index(place) + 1 :]
    losing = {name: value for one in after for name, value in REGIONS[one]("eu-north-1")[0].items()}
    text = text or (REGIONS["profile"]("eu-north-1")[1] if "profile" in after else "")
    mount = mounted(store, "bucket", env=configured(text) | losing | variables, **options)
    assert tree_of(mount.path) == TREE
    assert {one.request.region for one in planes(store.seen)} == {"ap-south-1"}


def test_without_any_region(store: SmallS3, mounted: Mounted) -> None:
    mount = mounted(store, "bucket", env={"AWS_DEFAULT_REGION": None})
    assert tree_of(mount.path) == TREE
    assert {one.request.region for one in planes(store.seen)} == {"us-east-1"}


@pytest.mark.parametrize("believed", ["us-west-2", "us-east-1", HOME_REGION])
@pytest.mark.parametrize("signed", [True, False])
def test_a_bucket_in_another_region_is_followed_and_told(
    amazon: Amazon, mounted: Mounted, believed: str, signed: bool
) -> None:
    env = amazon.environment | {"AWS_DEFAULT_REGION": believed}
    mount = mounted(amazon.proxy, "bucket", env=env, endpoint_url=None, no_sign_request=not signed)
    amazon.clear()
    assert tree_of(mount.path) == TREE
    for one in planes(amazon.seen):
        # It has been found out at the start: no request needs a second try.
        assert one.request.host == f"bucket.s3.{HOME_REGION}.amazonaws.com"
        assert one.request.sni == one.request.host
        assert one.request.tls
        assert one.request.region == (HOME_REGION if signed else "")
        assert one.status < 300
    assert (HOME_REGION in mount.log_text()) == (believed != HOME_REGION)


def test_a_region_that_a_small_store_wants_is_followed(mounted: Mounted) -> None:
    def judge(request: Request, _: str) -> Answer | None:
        # As MinIO says it: in the body, without a header.
        if request.region == "mars-1":
            return None
        return error(400, "AuthorizationHeaderMalformed", said="<Region>mars-1</Region>")

    with SmallS3({"bucket": OBJECTS}, judge) as store:
        mount = mounted(store, "bucket")
        store.clear()
        assert tree_of(mount.path) == TREE
        assert {one.request.region for one in planes(store.seen)} == {"mars-1"}
        assert "mars-1" in mount.log_text()


# -- addressing


def test_an_address_of_numbers_has_no_name_before_it(store: SmallS3, mounted: Mounted) -> None:
    mount = mounted(store, "bucket", addressing="virtual")
    assert tree_of(mount.path) == TREE
    assert not any(one.virtual for one in planes(store.seen))


@pytest.mark.parametrize(
    ("bucket", "options", "host"),
    [
        ("bucket", {}, f"bucket.s3.{HOME_REGION}.amazonaws.com"),
        ("bucket", {"addressing": "path"}, f"s3.{HOME_REGION}.amazonaws.com"),
        ("dotted.bucket", {}, f"s3.{HOME_REGION}.amazonaws.com"),
        ("bucket", {"dual_stack": True}, f"bucket.s3.dualstack.{HOME_REGION}.amazonaws.com"),
        ("bucket", {"fips": True}, f"bucket.s3-fips.{HOME_REGION}.amazonaws.com"),
        ("bucket", {"fips": True, "dual_stack": True}, f"bucket.s3-fips.dualstack.{HOME_REGION}.amazonaws.com"),
        (POINT_ARN, {}, f"{POINT}.s3-accesspoint.{HOME_REGION}.amazonaws.com"),
        (EXPRESS, {"region": "us-west-2"}, f"{EXPRESS}.s3express-usw2-az1.us-west-2.amazonaws.com"),
    ],
)
def test_amazon_hosts(amazon: Amazon, mounted: Mounted, bucket: str, options: dict[str, Option], host: str) -> None:
    env = amazon.environment | {"AWS_DEFAULT_REGION": HOME_REGION}
    mount = mounted(amazon.proxy, bucket, env=env, endpoint_url=None, **options)
    assert tree_of(mount.path) == TREE
    assert {one.request.host for one in planes(amazon.seen)} == {host}
    # Bytes come by the data plane, also where names of another kind are used.
    for one in amazon.seen:
        if one.kind == "GET":
            assert "boto" not in one.request.headers["user-agent"].lower()


@pytest.mark.parametrize("knows", ["path", "virtual"])
def test_a_store_that_knows_one_kind_of_address_only(mounted: Mounted, knows: str) -> None:
    def judge(request: Request, _: str) -> Answer | None:
        virtual = request.host.startswith("bucket.")
        # As the stores say it that have wildcard names only, and as one says it that takes the host for its own name.
        if virtual and knows == "path":
            return error(404, "NoSuchBucket")
        return None if virtual or knows == "path" else error(403, "SecondLevelDomainForbidden")

    def route(host: str, port: int) -> Address | None:
        return ("127.0.0.1", small.port) if host.endswith("store.example") else None

    with SmallS3({"bucket": OBJECTS}, judge) as small, ForwardProxy(route) as proxy:
        mount = mounted(small, "bucket", endpoint_url="http://store.example", env={"HTTP_PROXY": proxy.url})
        small.clear()
        assert tree_of(mount.path) == TREE
        assert {one.virtual for one in planes(small.seen)} == {knows == "virtual"}


# -- trust


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


IDENTITIES: Mapping[str, Callable[[Authority], Identity]] = {
    "signed": lambda authority: authority.server("127.0.0.1"),
    "self-signed": lambda authority: authority.self_signed("127.0.0.1"),
    "expired": lambda authority: authority.server("127.0.0.1", expired=True),
    "of another host": lambda authority: authority.server("elsewhere.example"),
}


TRUSTS: Mapping[str, Callable[[Path], tuple[dict[str, str], str, dict[str, Option]]]] = {
    "--ca-bundle": lambda path: ({}, "", {"ca_bundle": path}),
    "S3STREAM_FS_CA_BUNDLE": lambda path: ({"S3STREAM_FS_CA_BUNDLE": str(path)}, "", {}),
    "AWS_CA_BUNDLE": lambda path: ({"AWS_CA_BUNDLE": str(path)}, "", {}),
    "profile": lambda path: ({}, f"[default]\nca_bundle = {path}\n", {}),
    "SSL_CERT_FILE": lambda path: ({"SSL_CERT_FILE": str(path)}, "", {}),
}
"""As ENDPOINTS."""


@pytest.mark.parametrize(
    ("place", "kind"),
    [*((place, "signed") for place in TRUSTS), ("--ca-bundle", "self-signed"), ("SSL_CERT_FILE", "self-signed")],
)
def test_trust(
    authority: Authority,
    mounted: Mounted,
    configured: Callable[[str], dict[str, str | None]],
    place: str,
    kind: str,
) -> None:
    identity = IDENTITIES[kind](authority)
    variables, text, options = TRUSTS[place](identity.trust)
    # What goes after it would do harm: it is not there.
    after = list(TRUSTS)[list(TRUSTS).index(place) + 1 :]
    losing = {name: value for one in after for name, value in TRUSTS[one](Path("/no/such/file"))[0].items()}
    with SmallS3({"bucket": OBJECTS}, tls=identity.context()) as store:
        mount = mounted(store, "bucket", env=configured(text) | losing | variables, **options)
        assert tree_of(mount.path) == TREE
        assert all(one.request.tls for one in planes(store.seen))


@pytest.mark.parametrize("kind", IDENTITIES)
def test_without_verification_every_certificate_is_taken_and_a_warning_given(
    authority: Authority, mounted: Mounted, kind: str
) -> None:
    with SmallS3({"bucket": OBJECTS}, tls=IDENTITIES[kind](authority).context()) as store:
        mount = mounted(store, "bucket", no_verify_tls=True)
        assert tree_of(mount.path) == TREE
        planes(store.seen)
        assert sum("WARNING" in line and "certificate" in line for line in mount.log_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("kind", "trusted", "said"),
    [
        ("signed", False, "unable to get local issuer"),
        ("self-signed", False, "self-signed"),
        ("expired", True, "expired"),
        ("of another host", True, "127.0.0.1"),
    ],
)
def test_a_certificate_that_is_not_believed_is_told_at_once(
    authority: Authority, mounted: Mounted, kind: str, trusted: bool, said: str
) -> None:
    # The authority's own variable of obstore turns nothing off.
    env = {"AWS_ALLOW_INVALID_CERTIFICATES": "true", "AWS_ALLOW_INVALID_HOSTNAMES": "true"}
    with SmallS3({"bucket": OBJECTS}, tls=IDENTITIES[kind](authority).context()) as store:
        options = {"ca_bundle": authority.certificate} if trusted else {}
        failed = refused(mounted, store, "bucket", env=env, **options)
        assert store.seen == []
    assert failed.returncode == 3
    assert "certificate" in failed.stderr
    assert said in failed.stderr
    assert "--ca-bundle" in failed.stderr


@pytest.mark.parametrize("place", ["--ca-bundle", "AWS_CA_BUNDLE", "profile", "SSL_CERT_FILE"])
@pytest.mark.parametrize("what", ["missing", "no certificates"])
def test_a_bundle_that_cannot_be_used_is_named(
    store: SmallS3,
    mounted: Mounted,
    configured: Callable[[str], dict[str, str | None]],
    tmp_path: Path,
    place: str,
    what: str,
) -> None:
    path = tmp_path / "bundle.pem"
    if what != "missing":
        path.write_text("nothing of the kind")
    variables, text, options = TRUSTS[place](path)
    failed = refused(mounted, store, "bucket", env=configured(text) | variables, **options)
    assert failed.returncode == 2
    assert str(path) in failed.stderr
    assert place in failed.stderr
    assert store.seen == []


def test_tls_to_a_server_of_plain_http_is_told(store: SmallS3, mounted: Mounted) -> None:
    failed = refused(mounted, store, "bucket", endpoint_url=store.url.replace("http", "https"))
    assert failed.returncode == 3
    assert "TLS" in failed.stderr or "SSL" in failed.stderr


# -- proxies


@pytest.mark.parametrize(
    ("host", "variables", "through"),
    [
        ("127.0.0.1", {"HTTP_PROXY": "{proxy}"}, True),
        ("127.0.0.1", {"http_proxy": "{proxy}"}, True),
        ("127.0.0.1", {"ALL_PROXY": "{proxy}"}, True),
        ("127.0.0.1", {"http_proxy": "{host}"}, True),
        ("127.0.0.1", {"HTTPS_PROXY": "{proxy}"}, False),
        ("127.0.0.1", {"HTTP_PROXY": ""}, False),
        ("127.0.0.1", {"HTTP_PROXY": "{proxy}", "NO_PROXY": "127.0.0.1"}, False),
        ("127.0.0.1", {"HTTP_PROXY": "{proxy}", "no_proxy": "10.0.0.1, 127.0.0.1"}, False),
        ("127.0.0.1", {"HTTP_PROXY": "{proxy}", "NO_PROXY": "127.0.0.1:{port}"}, False),
        ("127.0.0.1", {"HTTP_PROXY": "{proxy}", "NO_PROXY": "127.0.0.1:1"}, True),
        ("127.0.0.1", {"HTTP_PROXY": "{proxy}", "NO_PROXY": "127.0.0.0/8"}, False),
        ("127.0.0.1", {"HTTP_PROXY": "{proxy}", "NO_PROXY": "10.0.0.0/8,example.com"}, True),
        ("127.0.0.1", {"ALL_PROXY": "{proxy}", "NO_PROXY": "*"}, False),
        ("localhost", {"HTTP_PROXY": "{proxy}"}, True),
        ("localhost", {"HTTP_PROXY": "{proxy}", "NO_PROXY": "localhost"}, False),
        ("localhost", {"HTTP_PROXY": "{proxy}", "NO_PROXY": ".localhost"}, False),
        ("localhost", {"HTTP_PROXY": "{proxy}", "NO_PROXY": "LOCALHOST:{port}"}, False),
        ("localhost", {"HTTP_PROXY": "{proxy}", "NO_PROXY": "host"}, True),
    ],
)
def test_proxy(store: SmallS3, mounted: Mounted, host: str, variables: Mapping[str, str], through: bool) -> None:
    with ForwardProxy() as proxy:
        env = {
            name: value.format(proxy=proxy.url, host=proxy.url.removeprefix("http://"), port=store.port)
            for name, value in variables.items()
        }
        mount = mounted(store, "bucket", endpoint_url=store.url_at(host), env=env)
        assert tree_of(mount.path) == TREE
        planes(store.seen)
        # Each request went that way, or none.
        assert len(proxy.passed) == (len(store.seen) if through else 0)


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_tls_goes_through_a_proxy_as_it_is(authority: Authority, mounted: Mounted, variable: str) -> None:
    identity = authority.server("localhost")
    with SmallS3({"bucket": OBJECTS}, tls=identity.context()) as store, ForwardProxy() as proxy:
        env = {variable: proxy.url, "HTTP_PROXY": "http://127.0.0.1:1"}
        mount = mounted(store, "bucket", endpoint_url=store.url_at("localhost"), ca_bundle=identity.trust, env=env)
        assert tree_of(mount.path) == TREE
        planes(store.seen)
        assert {(one.method, one.host, one.port) for one in proxy.passed} == {("CONNECT", "localhost", store.port)}
        assert len(proxy.passed) >= 2  # one connection at least for each plane


def test_a_password_of_a_proxy_is_given_and_not_shown(store: SmallS3, mounted: Mounted) -> None:
    with ForwardProxy(password="user:open%sesame") as proxy:
        env = {"HTTP_PROXY": proxy.url_with("user:open%25sesame")}
        mount = mounted(store, "bucket", env=env, log_level="debug")
        assert tree_of(mount.path) == TREE
        planes(store.seen)
        assert all(one.passed for one in proxy.passed)
        assert "sesame" not in mount.log_text() + str(mount.stats())


@pytest.mark.parametrize("tls", [False, True])
def test_a_proxy_that_wants_a_password_is_told_at_once(mounted: Mounted, authority: Authority, tls: bool) -> None:
    identity = authority.server("127.0.0.1")
    context = identity.context() if tls else None
    with SmallS3({"bucket": OBJECTS}, tls=context) as store, ForwardProxy(password="user:password") as proxy:
        env = {"ALL_PROXY": proxy.url_with("user:wrong")}
        failed = refused(mounted, store, "bucket", ca_bundle=identity.trust, env=env)
        assert store.seen == []
    assert failed.returncode == 3
    assert "proxy" in failed.stderr
    assert "wrong" not in failed.stderr


def test_a_proxy_that_cannot_be_used_is_named(store: SmallS3, mounted: Mounted) -> None:
    failed = refused(mounted, store, "bucket", env={"HTTP_PROXY": "ftp://user:secret@127.0.0.1:1"})
    assert failed.returncode == 2
    assert "HTTP_PROXY" in failed.stderr
    assert "secret" not in failed.stderr


# -- the form of requests


def test_servers_are_asked_in_the_usual_form(store: SmallS3, mounted: Mounted) -> None:
    with StrictServer(store.url) as strict:
        mount = mounted(strict, "bucket")
        assert tree_of(mount.path) == TREE
        planes(store.seen)
        assert [one.target for one in strict.seen if one.is_absolute] == []


# -- what obstore would read by itself


def test_variables_of_a_library_change_nothing(store: SmallS3, other: SmallS3, mounted: Mounted) -> None:
    def headers() -> list[tuple[str, dict[str, str]]]:
        """Of each request, without what differs from one to the next."""
        # botocore's user agent tells which of its features were used so far.
        changing = ("authorization", "x-amz-date", "amz-sdk-invocation-id", "host", "user-agent")
        return [
            (one.kind, {name: value for name, value in one.request.headers.items() if name not in changing})
            for one in planes(store.seen)
        ]

    mount = mounted(store, "bucket", metadata_ttl="0")
    assert tree_of(mount.path) == TREE
    usual = headers()
    mount.umount()
    store.clear()
    with ForwardProxy() as proxy:
        variables: Environment = {
            "AWS_ENDPOINT": other.url,
            "AWS_BUCKET": "another",
            "AWS_BUCKET_NAME": "another",
            "AWS_SKIP_SIGNATURE": "true",
            "AWS_UNSIGNED_PAYLOAD": "true",
            "AWS_ALLOW_HTTP": "false",
            "AWS_S3_EXPRESS": "true",
            "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
            "AWS_PROXY_URL": proxy.url,
            "AWS_REQUEST_PAYER": "true",
            "AWS_SERVER_SIDE_ENCRYPTION": "aws:kms",
            "AWS_SSE_KMS_KEY_ID": "key",
            "AWS_SSE_BUCKET_KEY_ENABLED": "true",
            "AWS_CHECKSUM_ALGORITHM": "sha256",
            "AWS_USER_AGENT": "somebody",
            "AWS_TIMEOUT": "1ms",
            "AWS_CONNECT_TIMEOUT": "1ms",
            "AWS_HTTP2_ONLY": "true",
            "AWS_TOKEN": "a token that belongs to nobody",
            "AWS_DEFAULT_HEADERS": "x-other: 1",
        }
        again = mounted(store, "bucket", metadata_ttl="0", env=variables)
        assert tree_of(again.path) == TREE
        assert proxy.passed == []
    assert other.seen == []
    assert all(one.request.access_key == "testing" for one in planes(store.seen))
    assert not any("somebody" in one.request.headers["user-agent"] for one in store.seen)
    assert headers() == usual


def test_a_word_that_the_library_does_not_know_is_the_users_to_mend(store: SmallS3, mounted: Mounted) -> None:
    failed = refused(mounted, store, "bucket", env={"AWS_CONDITIONAL_PUT": "nonsense"})
    assert failed.returncode == 2
    assert "AWS_" in failed.stderr


# -- what a snapshot names and the store has not


@pytest.mark.parametrize("gone", ["NoSuchBucket", "NoSuchKey"])
def test_a_mount_of_a_snapshot_takes_a_bucket_and_not_its_objects(
    mounted: Mounted, cli: CommandLine, tmp_path: Path, gone: str
) -> None:
    left = [True]
    with SmallS3({"bucket": OBJECTS}, lambda *_: None if left else error(404, gone)) as store:
        done = cli.run("index", "s3://bucket", "-o", tmp_path / "snapshot", "--endpoint-url", store.url)
        assert done.returncode == 0, done.stderr
        left.clear()
        if gone == "NoSuchBucket":
            failed = refused(mounted, store, "bucket", index=tmp_path / "snapshot")
            assert failed.returncode == 3
            assert "NoSuchBucket" in failed.stderr
            return
        mount = mounted(store, "bucket", index=tmp_path / "snapshot")
        assert {path.name for path in mount.path.iterdir()} == {"a", "two words"}
        (warning,) = [line for line in mount.log_text().splitlines() if "not in the bucket any more" in line]
        assert "WARNING" in warning


def test_what_the_mount_was_made_from_is_told(store: SmallS3, mounted: Mounted, cli: CommandLine) -> None:
    """``stats`` names the store, the region and the source of the keys, whatever they came from."""
    mount = mounted(store, "bucket", env={"AWS_ENDPOINT_URL": store.url, "AWS_REGION": "ap-south-1"}, endpoint_url=None)
    told = str(mount.stats())
    assert store.url in told
    assert "ap-south-1" in told
