"""The same battery on every store of the table, through a real mount: what holds on Amazon S3 holds there.

What a store cannot do stands in ``stores``; then the test asserts what holds without it.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shlex
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from conftest import Mounted
from mounting import COMMAND, PATIENCE_SECONDS, CommandLine, Mount, MountFailed, Option
from servers.buckets import CHANGING, CROWDED, PUBLIC_KEY, TREE, keys_of
from servers.clusters import ROLE
from servers.fronts import NAME, Nginx, Tinyproxy
from servers.processes import wait_until
from servers.server import PUBLIC, Server
from servers.stores import Lack, Store
from servers.tree import CROWD, MIB, MULTIPART, content, digest, read, shown

NKEYS_PER_PAGE = 1000

KEY = "plain.txt"
"""One key of ``tree`` that every store takes."""

OLD, NEW = (random.Random(seed).randbytes(16 * MIB) for seed in (1, 2))
"""Two versions of one object, of one size. Their last byte is far beyond what a read of the first one fetches ahead."""


@pytest.fixture
def prefix(server: Server, request: pytest.FixtureRequest) -> str:
    """Where in ``changing`` this test may write; the stores are shared by what stands in front of them."""
    return f"{type(server).__name__}/{request.function.__name__}"


def put(server: Server, key: str, data: bytes) -> None:
    server.client.put_object(Bucket=CHANGING, Key=key, Body=data)


def gets(mount: Mount) -> int:
    return int(mount.stats()["s3"]["gets"])


def refused(mounted: Mounted, server: Server, bucket: str, prefix: str = "", **options: Option) -> str:
    """Why a mount that must not come up did not: one line."""
    with pytest.raises(MountFailed) as caught:
        mounted(server, bucket, prefix, **options)
    assert caught.value.returncode == 3
    (line,) = caught.value.stderr.splitlines()
    return line


def ran(cli: CommandLine, *words: str | Path) -> Any:
    """The JSON that a command answers."""
    done = cli.run(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def forget_credentials(cli: CommandLine) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del cli.environment[name]


CUSTOMERS_KEY = random.Random(4).randbytes(32)


def encrypted(server: Server) -> str:
    """The key of an object that is encrypted with the customer's key, if the store does that."""
    key = "encrypted/file"
    server.client.put_object(
        Bucket=CHANGING, Key=key, Body=OLD, SSECustomerAlgorithm="AES256", SSECustomerKey=CUSTOMERS_KEY
    )
    return key


def code_of(client: Any, request: Mapping[str, str]) -> int:
    """The HTTP status of a GET of a known key."""
    asked = {"Bucket": TREE, "Key": KEY, **request}
    try:
        return int(client.get_object(**asked)["ResponseMetadata"]["HTTPStatusCode"])
    except ClientError as error:
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def test_the_store_is_as_the_table_says(server: Server, store: Store) -> None:
    """So that a lack that a newer version has not any more is taken out."""
    owner = server.store

    def client(key_id: str, secret: str, **settings: Any) -> Any:
        config = Config(s3={"addressing_style": "path"}, proxies={}, retries={"total_max_attempts": 1}, **settings)
        keys = {"aws_access_key_id": key_id, "aws_secret_access_key": secret}
        return boto3.client("s3", endpoint_url=owner.url, region_name=owner.region, config=config, **keys)

    anybody = client("", "", signature_version=UNSIGNED)
    found = {
        Lack.IF_MATCH: code_of(owner.client, {"IfMatch": '"0"'}) != 412,
        Lack.PARTIAL_STATUS: code_of(owner.client, {"Range": "bytes=2-5"}) != 206,
        Lack.FIRST_BYTES: owner.client.get_object(Bucket=TREE, Key=KEY, Range="bytes=0-0")["ContentLength"] != 1,
        Lack.PART_COUNTS: "-" not in owner.client.head_object(Bucket=TREE, Key=MULTIPART)["ETag"],
        Lack.KEY_IDS: code_of(client("unknown", owner.secret), {}) == 200,
        Lack.SECRETS: code_of(client(owner.key_id, "wrong"), {}) == 200,
        Lack.PRIVACY: code_of(anybody, {}) == 200,
        Lack.PUBLICITY: code_of(anybody, {"Bucket": PUBLIC, "Key": PUBLIC_KEY}) != 200,
        Lack.CUSTOMERS_KEYS: code_of(owner.client, {"Bucket": CHANGING, "Key": encrypted(owner)}) == 200,
        Lack.MEMORY: Lack.MEMORY in store.lacks,  # seen by the test that restarts it
    }
    assert {lack for lack, lacking in found.items() if lacking} == store.lacks


def test_every_name_and_every_byte(server: Server, store: Store, mounted: Mounted) -> None:
    mount = mounted(server, TREE)
    assert read(mount.path) == shown(keys_of(store))
    if isinstance(server, (Nginx, Tinyproxy)):
        asked = server.log.read_text()
        assert KEY in asked, "the bytes came another way"
        assert "list-type=2" in asked, "the names came another way"


def test_an_object_of_several_parts(server: Server, store: Store, mounted: Mounted) -> None:
    mount = mounted(server, TREE)
    path, data = mount.path / MULTIPART, content(MULTIPART)
    etag = server.client.head_object(Bucket=TREE, Key=MULTIPART)["ETag"].strip('"')
    assert os.getxattr(path, "user.s3.etag").decode() == etag
    assert (Lack.PART_COUNTS in store.lacks) != etag.endswith("-4")
    choice = random.Random(3)
    with path.open("rb", buffering=0) as file:
        for _ in range(20):
            offset, nbytes = choice.randrange(len(data)), choice.randint(1, 300_000)
            assert os.pread(file.fileno(), nbytes, offset) == data[offset : offset + nbytes]


def test_a_crowded_folder(server: Server, mounted: Mounted) -> None:
    mount = mounted(server, CROWDED)
    folder = mount.path / "crowd"
    with os.scandir(folder) as entries:
        sizes = {f"crowd/{entry.name}": entry.stat().st_size for entry in entries}
    assert sizes == {key: len(content(key)) for key in CROWD}
    for key in CROWD[::100]:
        assert (mount.path / key).read_bytes() == content(key)
    assert not (folder / "99999").exists()


def test_overwritten_while_open(server: Server, mounted: Mounted, prefix: str) -> None:
    put(server, f"{prefix}/file", OLD)
    mount = mounted(server, CHANGING, prefix, metadata_ttl="0")
    path = mount.path / "file"
    with path.open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 4096, 0) == OLD[:4096]
        put(server, f"{prefix}/file", NEW)
        with pytest.raises(OSError, match="Stale") as caught:
            os.pread(file.fileno(), 4096, len(OLD) - 4096)
        assert caught.value.errno == errno.ESTALE
        assert digest(path.read_bytes()) == digest(NEW)


def test_deleted_while_open(server: Server, mounted: Mounted, prefix: str) -> None:
    put(server, f"{prefix}/file", OLD)
    put(server, f"{prefix}/stays", b"stays")
    mount = mounted(server, CHANGING, prefix, metadata_ttl="0")
    path = mount.path / "file"
    with path.open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 4096, 0) == OLD[:4096]
        server.client.delete_object(Bucket=CHANGING, Key=f"{prefix}/file")
        with pytest.raises(FileNotFoundError):
            os.pread(file.fileno(), 4096, len(OLD) - 4096)
    assert not path.exists()
    assert os.listdir(mount.path) == ["stays"]


def test_a_restart_with_the_cache_asks_for_no_bytes(server: Server, store: Store, mounted: Mounted) -> None:
    mount = mounted(server, TREE)
    wanted = shown(keys_of(store))
    assert read(mount.path) == wanted
    mount.remount()
    before = gets(mount)  # the mount itself may read one byte
    assert read(mount.path) == wanted
    assert gets(mount) == before


def test_wrong_secret(server: Server, store: Store, cli: CommandLine, mounted: Mounted) -> None:
    cli.environment["AWS_SECRET_ACCESS_KEY"] = "wrong"
    if Lack.SECRETS in store.lacks:
        assert (mounted(server, TREE).path / KEY).read_bytes() == content(KEY)
    else:
        assert "no bucket" not in refused(mounted, server, TREE)


def test_unknown_access_key(server: Server, store: Store, cli: CommandLine, mounted: Mounted) -> None:
    cli.environment["AWS_ACCESS_KEY_ID"] = "unknown"
    if Lack.KEY_IDS in store.lacks:
        assert (mounted(server, TREE).path / KEY).read_bytes() == content(KEY)
    else:
        assert "no bucket" not in refused(mounted, server, TREE)


def test_a_customers_key(server: Server, store: Store, mounted: Mounted, tmp_path: Path) -> None:
    """Both halves of the product send it, and sign it, or a store that checks would refuse."""
    encrypted(server.store)
    file = tmp_path / "key"
    file.write_bytes(CUSTOMERS_KEY)
    mount = mounted(server, CHANGING, "encrypted", sse_c_key_file=file)
    assert digest((mount.path / "file").read_bytes()) == digest(OLD)
    if Lack.CUSTOMERS_KEYS not in store.lacks:
        assert "--sse-c-key-file" in refused(mounted, server, CHANGING, prefix="encrypted")


@pytest.mark.parametrize("server", ["radosgw", "tinyproxy"], indirect=True)
def test_an_assumed_role(server: Server, cli: CommandLine, mounted: Mounted, tmp_path: Path) -> None:
    """Keys of a session, whose token the store decrypts and checks, from an STS that nobody here wrote."""
    config = tmp_path / "config"
    config.write_text(
        f"[profile base]\naws_access_key_id = {server.store.key_id}\naws_secret_access_key = {server.store.secret}\n"
        f"[profile role]\nrole_arn = arn:aws:iam:::role/{ROLE}\nsource_profile = base\nregion = {server.store.region}\n"
    )
    forget_credentials(cli)
    cli.environment |= {"AWS_CONFIG_FILE": str(config), "AWS_ENDPOINT_URL_STS": server.store.url}
    mount = mounted(server, TREE, profile="role")
    assert (mount.path / KEY).read_bytes() == content(KEY)
    credentials = mount.stats()["s3"]["credentials"]
    assert credentials["source"] == "assume-role"
    assert 0 < credentials["seconds_left"] <= 3600


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to give a name a meaning; the address itself is tried above")
@pytest.mark.parametrize("server", ["nginx"], indirect=True)
def test_a_name_that_stands_for_an_ipv6_address(server: Nginx, cli: CommandLine, short_path: Path) -> None:
    """In a mount namespace of its own, whose /etc/hosts has it."""
    hosts, mountpoint = short_path / "hosts", short_path / "m"
    hosts.write_text(f"::1 {NAME}\n")
    mountpoint.mkdir()
    words = [*COMMAND, "mount", f"s3://{TREE}", mountpoint, "--endpoint-url", f"https://{NAME}:{server.port}"]
    words += ["--cache-dir", short_path / "cache", "--log-file", short_path / "log"]
    script = f"mount --bind {hosts} /etc/hosts && {shlex.join(map(str, words))} && cat {mountpoint / KEY}"
    script += f"; {shlex.join(COMMAND)} umount {mountpoint}"
    done = subprocess.run(
        ["unshare", "--mount", "--propagation=private", "sh", "-c", script],
        env=cli.environment,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.stdout, done.stderr) == (content(KEY), b"")


def test_what_is_asked_of_amazon_beside_names_and_bytes(server: Server, store: Store, mounted: Mounted) -> None:
    """No store of the table heeds these; but those that check signatures check that they are signed."""
    mount = mounted(server, TREE, requester_pays=True, expected_bucket_owner="123456789012")
    assert (mount.path / KEY).read_bytes() == content(KEY)
    assert len(os.listdir(mount.path)) > 10
    assert code_of(server.store.client, {"ExpectedBucketOwner": "999999999999"}) == 200


def test_missing_bucket(server: Server, mounted: Mounted) -> None:
    assert "no-such-bucket" in refused(mounted, server, "no-such-bucket")


def test_a_public_bucket_without_credentials(server: Server, store: Store, cli: CommandLine, mounted: Mounted) -> None:
    forget_credentials(cli)
    if Lack.PUBLICITY in store.lacks:
        refused(mounted, server, PUBLIC, no_sign_request=True)
    else:
        mount = mounted(server, PUBLIC, no_sign_request=True)
        assert (mount.path / PUBLIC_KEY).read_bytes() == content(PUBLIC_KEY)


def test_a_private_bucket_without_credentials(server: Server, store: Store, cli: CommandLine, mounted: Mounted) -> None:
    forget_credentials(cli)
    if Lack.PRIVACY in store.lacks:
        mount = mounted(server, TREE, no_sign_request=True)
        assert (mount.path / KEY).read_bytes() == content(KEY)
    else:
        refused(mounted, server, TREE, no_sign_request=True)


def test_a_snapshot(server: Server, store: Store, cli: CommandLine, mounted: Mounted, tmp_path: Path) -> None:
    snapshot = tmp_path / "tree.snapshot"
    ran(cli, "index", f"s3://{TREE}", "--endpoint-url", server.url, "-o", snapshot)
    mount = mounted(server, TREE, index=snapshot)
    before = mount.stats()["s3"]["lists"]
    assert read(mount.path) == shown(keys_of(store))
    assert mount.stats()["s3"]["lists"] == before


def test_warm(server: Server, mounted: Mounted) -> None:
    mount = mounted(server, TREE)
    folder = mount.path / "in a folder"
    said = ran(mount.cli, "warm", folder, mount.path / MULTIPART)
    assert (said["nfiles_done"], said["nfiles_failed"]) == (2, 0)
    before = gets(mount)
    (below,) = folder.iterdir()
    assert below.read_bytes() == content(f"in a folder/{below.name}")
    assert digest((mount.path / MULTIPART).read_bytes()) == digest(content(MULTIPART))
    assert gets(mount) == before


def test_refresh(server: Server, mounted: Mounted, prefix: str) -> None:
    for name in ("same", "replaced", "gone"):
        put(server, f"{prefix}/{name}", b"old")
    mount = mounted(server, CHANGING, prefix, metadata_ttl="inf")
    before = read(mount.path)
    assert before == dict.fromkeys(("same", "replaced", "gone"), digest(b"old"))
    put(server, f"{prefix}/replaced", b"replaced")
    put(server, f"{prefix}/added + é/file", b"added")
    server.client.delete_object(Bucket=CHANGING, Key=f"{prefix}/gone")
    assert read(mount.path) == before
    said = ran(mount.cli, "refresh", mount.path)
    assert (said["nadded"], said["nremoved"], said["nreplaced"]) == (1, 1, 1)
    assert read(mount.path) == {
        "same": digest(b"old"),
        "replaced": digest(b"replaced"),
        "added + é": None,
        "added + é/file": digest(b"added"),
    }


def test_stopped_and_started_during_a_read(server: Server, store: Store, mounted: Mounted) -> None:
    """The last of the battery: what forgets its objects has none for the others then."""
    mount = mounted(server, TREE)
    data = content(MULTIPART)
    with (mount.path / MULTIPART).open("rb", buffering=0) as file, ThreadPoolExecutor(1) as other:
        assert file.read(4096) == data[:4096]
        server.stop()
        # Started again whatever happens, or the reader would wait for its deadline.
        try:
            rest = other.submit(file.readall)
            wait_until(lambda: mount.stats()["retries"]["retries"] > 0 or rest.done(), "a GET is tried again")
        finally:
            server.start()
        if Lack.MEMORY in store.lacks:
            with pytest.raises(OSError, match=r"Input/output error|No such file"):
                rest.result()
        else:
            assert digest(data[:4096] + rest.result()) == digest(data)
