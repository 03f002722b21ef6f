"""Credentials as a long job meets them: every source, keys that end meanwhile, sources that fail for a while.

What takes time happens once, for all mounts together (``endured``); the tests then look each at its own.
"""

from __future__ import annotations

import functools
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from authority import Authority
from forwardproxy import ForwardProxy
from loopback import Answer, Request
from mounting import CommandLine, Mount, MountFailed
from smalls3 import SmallS3, error
from sources import RECIPES, RENEWED, ROLE, Recipe, Sources, Trouble, as_section, profile, rotate
from wallclock import WallClock

Mounted = Callable[..., Mount]

SECONDS_AT_MOST: Final = 12.0
"""What cannot succeed is told within seconds. A bound, not a speed."""


@pytest.fixture
def sources() -> Iterator[Sources]:
    with Sources() as started:
        yield started


def objects(number: int) -> dict[str, bytes]:
    """So many folders with a file each: each look at one takes a LIST and a GET."""
    return {f"{n:04}/file": b"%d" % n * 100 for n in range(number)}


def look(mount: Mount, number: int) -> None:
    """One LIST and one GET that have not been made before."""
    folder = mount.path / f"{number:04}"
    assert os.listdir(folder) == ["file"]
    assert (folder / "file").read_bytes() == b"%d" % number * 100


def mounted_by(mounted: Mounted, store: SmallS3, recipe: Recipe, **options: object) -> Mount:
    return mounted(store, "bucket", env=recipe.environment, **{**recipe.options, **options})


# -- sixty seconds

SECONDS: Final = 60.0
LIFE: Final = timedelta(seconds=12)
"""Of keys: five lives in the time."""

TROUBLED_LIFE: Final = timedelta(seconds=45)
TROUBLED_FROM: Final = 1.0
TROUBLED_UNTIL: Final = 35.0
"""While a source is in trouble the first keys are good, and it would have been asked long before their end."""

TROUBLES: Final[Mapping[str, tuple[str, Trouble]]] = {
    "an instance answers 500": ("instance", "500"),
    "a container's endpoint hangs": ("container", "hangs"),
    "a container's endpoint gives nothing": ("container", "nothing"),
    "STS throttles": ("web-identity", "throttled"),
    "STS answers 500": ("assume-role", "500"),
    "STS hangs": ("web-identity", "hangs"),
    "SSO throttles": ("sso", "throttled"),
    "a process fails": ("process", "500"),
}


@dataclass
class Endured:
    """What happened to one mount: how many looks went well, the first fault, how long the longest took."""

    nlooks: int = 0
    fault: str = ""
    longest_seconds: float = 0.0
    nasked: int = 0
    refusals: list[str] = field(default_factory=list)
    access_keys: set[str] = field(default_factory=set)
    log: str = ""


@pytest.fixture(scope="module")
def endured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Endured]:
    """Every source with short-lived keys, and every trouble, each in a mount of its own, all at the same time."""
    base = tmp_path_factory.mktemp("endured")
    found = {name: Endured() for name in [*RECIPES, *TROUBLES]}
    content = objects(2000)
    starting = threading.Semaphore(3)  # or each would take as long to start as all of them do

    def endure(number: int, name: str) -> None:
        source, trouble = TROUBLES.get(name, (name, None))
        folder = base / f"{number}"
        folder.mkdir()
        (folder / "m").mkdir()
        with (
            Sources(TROUBLED_LIFE if trouble else LIFE) as sources,
            SmallS3({"bucket" if number % 2 else "bucket1": content}, _slow(sources.keys.judge)) as store,
        ):
            bucket = "bucket" if number % 2 else "bucket1"
            recipe = RECIPES[source](sources, folder)
            cli = CommandLine(folder).with_environment(recipe.environment)
            options = {"endpoint_url": store.url, "read_deadline": "10s", **recipe.options}
            with _rotating(sources, folder) if source == "file" else nullcontext():
                with starting:
                    mount = Mount(cli, f"s3://{bucket}", folder / "m", options)
                try:
                    _endure(mount, sources, source, trouble, found[name])
                finally:
                    sources.mend()
                    mount.close()
            found[name].nasked = len(sources.asked(source))
            found[name].refusals = [code for _, code in sources.keys.refused]
            found[name].access_keys = {one.request.access_key for one in store.seen if one.kind == "GET"}
            found[name].log = mount.log_text()

    with ThreadPoolExecutor(len(found)) as threads:
        for done in [threads.submit(endure, number, name) for number, name in enumerate(found)]:
            done.result()
    return found


@contextmanager
def _rotating(sources: Sources, folder: Path) -> Iterator[None]:
    """Beside the mount somebody writes new keys into its file, a while before the old ones end."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(LIFE.total_seconds() / 2):  # a busy machine may be seconds late
            rotate(sources, folder)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _slow(judge: Callable[[Request, str], Answer | None]) -> Callable[[Request, str], Answer | None]:
    """A store whose answers take a while, so that a minute of reading is not a million requests."""

    def judged(request: Request, bucket: str) -> Answer | None:
        threading.Event().wait(0.25)
        return judge(request, bucket)

    return judged


def _endure(mount: Mount, sources: Sources, source: str, trouble: Trouble | None, seen: Endured) -> None:
    started = time.monotonic()
    while (now := time.monotonic()) < started + SECONDS:
        passed = now - started
        if trouble is not None and TROUBLED_FROM < passed < TROUBLED_UNTIL:
            if not sources.in_trouble(source):
                sources.trouble(source, trouble)
        else:
            sources.mend()
        try:
            look(mount, seen.nlooks)
        except (OSError, AssertionError) as fault:
            seen.fault = f"after {passed:.1f} s: {fault!r}"
            return
        seen.longest_seconds = max(seen.longest_seconds, time.monotonic() - now)
        seen.nlooks += 1


@pytest.mark.parametrize("source", RECIPES)
def test_a_minute_of_reading_while_keys_end(endured: dict[str, Endured], source: str) -> None:
    seen = endured[source]
    assert seen.fault == "", seen.log
    assert seen.nlooks > 30
    # Keys are asked for before their end, whatever life they have: nothing is refused. A file says no end, so that
    # one refusal, and what was under way beside it, is how its keys are found to have ended: ten times at the most.
    assert len(seen.refusals) <= (10 * 6 if source == "file" else 0)
    nlives = SECONDS / LIFE.total_seconds()
    if source in RENEWED:
        assert len(seen.access_keys) >= nlives - 1
        assert seen.nasked <= 3 * nlives, "a source is asked a few times in a life, not with each request"
    assert "secret-" not in seen.log
    assert "token-" not in seen.log
    assert "ERROR" not in seen.log


@pytest.mark.parametrize("what", TROUBLES)
def test_a_source_in_trouble_hurts_nobody_while_keys_are_good(endured: dict[str, Endured], what: str) -> None:
    seen = endured[what]
    assert seen.fault == "", seen.log
    assert seen.nlooks > 30
    assert seen.longest_seconds < 5, "nobody waits for a source while the old keys are good"
    assert len(seen.access_keys) >= 2, "it was asked again once it was mended"
    assert seen.refusals == []
    assert seen.nasked < 40
    # Told once, with the reason, and that it is over; not per try.
    warnings = [line for line in seen.log.splitlines() if "WARNING" in line]
    assert len(warnings) == 1 or (not warnings and "hangs" in what), seen.log
    assert "Traceback" not in seen.log
    assert "ERROR" not in seen.log


# -- keys that the store calls ended


@pytest.mark.parametrize(
    ("source", "how"), [("file", "deleted"), *((source, "revoked") for source in ("file", *RENEWED))]
)
def test_refused_keys_are_asked_for_anew_at_once(
    mounted: Mounted, sources: Sources, tmp_path: Path, source: str, how: str
) -> None:
    with SmallS3({"bucket": objects(20)}, sources.keys.judge) as store:
        mount = mounted_by(mounted, store, RECIPES[source](sources, tmp_path))
        look(mount, 0)
        # As far as anybody was told they were good for hours. What signs for other keys is still good.
        sources.keys.revoke(but="user") if how == "revoked" else sources.keys.forget()
        if source == "file":
            rotate(sources, tmp_path)
        for number in range(1, 10):
            look(mount, number)
        assert len(sources.keys.refused) <= 2, "what the first refusal brought holds for both planes"
        assert len(sources.asked(source)) == (0 if source == "file" else 2)
        assert "ERROR" not in mount.log_text()


def test_many_readers_renew_once(mounted: Mounted, sources: Sources, tmp_path: Path) -> None:
    with SmallS3({"bucket": objects(64)}, sources.keys.judge) as store, ThreadPoolExecutor(32) as threads:
        mount = mounted_by(mounted, store, RECIPES["container"](sources, tmp_path))
        look(mount, 0)
        sources.keys.revoke()
        list(threads.map(functools.partial(look, mount), range(1, 64)))
        assert len(sources.asked("container")) == 2


def test_keys_that_stay_refused_make_no_storm(mounted: Mounted, sources: Sources, tmp_path: Path) -> None:
    with SmallS3({"bucket": objects(100)}, sources.keys.judge) as store:
        mount = mounted_by(mounted, store, RECIPES["container"](sources, tmp_path), metadata_ttl="1h")
        mount.announce(".")
        names = sorted(os.listdir(mount.path))
        for name in names:
            os.listdir(mount.path / name)
        sources.refuse_new_keys = True
        sources.keys.revoke()
        store.clear()
        for name in names:
            with pytest.raises(PermissionError):
                (mount.path / name / "file").read_bytes()
        # The kernel asks again when a read ahead of it has failed; and once each with keys that are new.
        assert len(store.seen) <= 4 * len(names)
        assert len(sources.asked("container")) <= 6
        assert sum("WARNING" in line or "ERROR" in line for line in mount.log_text().splitlines()) <= len(names)
        sources.refuse_new_keys = False
        # Whoever reads later finds it mended without a remount: at the latest when the source is asked again.
        deadline = time.monotonic() + 30
        while True:
            try:
                assert (mount.path / "0000" / "file").read_bytes() == b"0" * 100
                break
            except PermissionError:
                assert time.monotonic() < deadline
                threading.Event().wait(0.2)


def test_keys_with_little_time_left_are_used_until_their_end(
    mounted: Mounted, sources: Sources, tmp_path: Path
) -> None:
    sources.life = timedelta(seconds=200)
    with SmallS3({"bucket": objects(60)}, sources.keys.judge) as store:
        mount = mounted_by(mounted, store, RECIPES["instance"](sources, tmp_path))
        for number in range(60):
            look(mount, number)
        assert len(sources.asked("instance")) == 1
        assert {one.request.access_key for one in store.seen} == {sources.keys.last}


# -- clocks


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path)


def skewed(request: Request, _: str) -> Answer | None:
    """A store whose clock is right, and which refuses what is signed at another time, as S3 does: after 15 minutes."""
    signed = request.headers.get("x-amz-date", "19700101T000000Z")
    now = datetime.now(UTC)
    at = datetime.strptime(signed, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    if abs(now - at) < timedelta(minutes=15):
        return None
    said = f"<RequestTime>{signed}</RequestTime><ServerTime>{now:%Y-%m-%dT%H:%M:%SZ}</ServerTime>"
    return error(403, "RequestTimeTooSkewed", said=said)


@pytest.mark.parametrize("off", [timedelta(hours=-3), timedelta(hours=3)])
def test_a_wall_clock_that_is_set_does_not_matter(
    mounted: Mounted, sources: Sources, tmp_path: Path, clock: WallClock, off: timedelta
) -> None:
    sources.life = timedelta(seconds=6)

    def judge(request: Request, bucket: str) -> Answer | None:
        return skewed(request, bucket) or sources.keys.judge(request, bucket)

    with SmallS3({"bucket": objects(2000)}, _slow(judge)) as store:
        recipe = RECIPES["container"](sources, tmp_path)
        mount = mounted(store, "bucket", env={**recipe.environment, **clock.environment})
        look(mount, 0)
        clock.set(off)
        started, number = time.monotonic(), 1
        while time.monotonic() < started + 10:
            look(mount, number)
            number += 1
        assert sources.keys.refused == []
        assert len(sources.asked("container")) <= 12
        # Found out once by each plane at most: how far the clock is off.
        assert sum(one.status >= 300 for one in store.seen) <= 2


@pytest.mark.parametrize("off", [timedelta(hours=-2), timedelta(hours=2)])
def test_a_clock_that_is_wrong_is_corrected_and_told(mounted: Mounted, clock: WallClock, off: timedelta) -> None:
    clock.set(off)
    with SmallS3({"bucket": objects(10)}, skewed) as store:
        mount = mounted(store, "bucket", env=clock.environment)
        store.clear()
        for number in range(10):
            look(mount, number)
        assert all(one.status < 300 for one in store.seen)
        told = [line for line in mount.log_text().splitlines() if "this machine's clock" in line]
        assert len(told) == 1


def test_a_clock_that_goes_wrong_later_is_corrected(mounted: Mounted, clock: WallClock) -> None:
    with SmallS3({"bucket": objects(10)}, skewed) as store:
        mount = mounted(store, "bucket", env=clock.environment)
        look(mount, 0)
        clock.set(timedelta(hours=-1))
        for number in range(1, 5):
            look(mount, number)
        clock.set(timedelta())
        for number in range(5, 10):
            look(mount, number)
        # Twice it is found out, by what is under way then.
        assert sum(one.status >= 300 for one in store.seen) <= 8
        assert "clock" in mount.log_text()


# -- what cannot succeed


def _missing_profile(_: Sources, folder: Path) -> Recipe:
    return Recipe(profile(folder), {"profile": "nobody"})


def _mfa(sources: Sources, folder: Path) -> Recipe:
    key = sources.keys.issue("user", timedelta(days=1), token="")
    config = f"[default]\nrole_arn = {ROLE}\nsource_profile = user\nmfa_serial = arn:aws:iam::123456789012:mfa/me\n"
    return Recipe(profile(folder, config, as_section(key, "user")) | {"AWS_ENDPOINT_URL_STS": sources.url})


def _failing_process(_: Sources, folder: Path) -> Recipe:
    script = folder / "keys"
    script.write_text("#!/bin/sh\necho 'the vault is sealed' >&2\nexit 3\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return Recipe(profile(folder, f"[default]\ncredential_process = {script}\n"))


def _process_that_says_something_else(_: Sources, folder: Path) -> Recipe:
    return Recipe(profile(folder, "[default]\ncredential_process = echo hello\n"))


def _process_that_is_not_there(_: Sources, folder: Path) -> Recipe:
    return Recipe(profile(folder, "[default]\ncredential_process = /no/such/program\n"))


def _token_file_missing(sources: Sources, folder: Path) -> Recipe:
    recipe = RECIPES["web-identity"](sources, folder)
    (folder / "identity").unlink()
    return recipe


def _token_refused(sources: Sources, folder: Path) -> Recipe:
    recipe = RECIPES["web-identity"](sources, folder)
    (folder / "identity").write_text("of.somebody.else")
    return recipe


def _not_logged_in(sources: Sources, folder: Path) -> Recipe:
    recipe = RECIPES["sso"](sources, folder)
    for file in (folder / "home" / ".aws" / "sso" / "cache").iterdir():
        file.unlink()
    return recipe


def _container_refuses(sources: Sources, folder: Path) -> Recipe:
    recipe = RECIPES["container"](sources, folder)
    (folder / "authorization").write_text("another")
    return recipe


def _nobody_there(_: Sources, folder: Path) -> Recipe:
    none = {"AWS_EC2_METADATA_DISABLED": None, "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1/"}
    return Recipe(profile(folder) | none)


def _half_a_key(_: Sources, folder: Path) -> Recipe:
    return Recipe(profile(folder, credentials="[default]\naws_access_key_id = HALF\n"))


def _role_of_nobody(_: Sources, folder: Path) -> Recipe:
    return Recipe(profile(folder, f"[default]\nrole_arn = {ROLE}\nsource_profile = nobody\n"))


def _role_of_itself(_: Sources, folder: Path) -> Recipe:
    config = (
        f"[default]\nrole_arn = {ROLE}\nsource_profile = b\n[profile b]\nrole_arn = {ROLE}\nsource_profile = default\n"
    )
    return Recipe(profile(folder, config))


def _broken_file(_: Sources, folder: Path) -> Recipe:
    return Recipe(profile(folder, "[default\nthis is no configuration"))


def _keys_unknown(_: Sources, __: Path) -> Recipe:
    return Recipe({"AWS_ACCESS_KEY_ID": "NOBODY", "AWS_SECRET_ACCESS_KEY": "none"})


HOPELESS: Final[Mapping[str, tuple[Callable[[Sources, Path], Recipe], int, tuple[str, ...]]]] = {
    "no profile": (_missing_profile, 2, ("nobody",)),
    "a broken file": (_broken_file, 2, ("config",)),
    "a role that takes MFA": (_mfa, 3, ("MFA",)),
    "a process that fails": (_failing_process, 3, ("the vault is sealed",)),
    "a process that says something else": (_process_that_says_something_else, 3, ("credential_process",)),
    "a process that is not there": (_process_that_is_not_there, 3, ("/no/such/program",)),
    "no token file": (_token_file_missing, 3, ("identity", "No such file")),
    "a token that STS refuses": (_token_refused, 3, ("InvalidIdentityToken",)),
    "not logged in": (_not_logged_in, 3, ("aws sso login",)),
    "a container's endpoint refuses": (_container_refuses, 3, ("403",)),
    "no source at all": (_nobody_there, 3, ("credentials were found", "AWS_ACCESS_KEY_ID")),
    "half a key": (_half_a_key, 3, ("aws_secret_access_key",)),
    "a role of a profile that is not there": (_role_of_nobody, 3, ("nobody",)),
    "a role of itself": (_role_of_itself, 3, ("profile", "'b'")),
    "keys that nobody knows": (_keys_unknown, 3, ("InvalidAccessKeyId",)),
}
"""What is set, the exit code, and what the line has to hold."""


@pytest.mark.parametrize("what", HOPELESS)
def test_what_cannot_succeed_is_told_within_seconds(
    mounted: Mounted, sources: Sources, tmp_path: Path, what: str
) -> None:
    made, code, said = HOPELESS[what]
    with SmallS3({"bucket": objects(1)}, sources.keys.judge) as store:
        started = time.monotonic()
        with pytest.raises(MountFailed) as raised:
            mounted_by(mounted, store, made(sources, tmp_path))
        seconds = time.monotonic() - started
    line = raised.value.stderr.strip()
    assert seconds < SECONDS_AT_MOST, f"{seconds:.1f} s: {line}"
    assert len(line.splitlines()) == 1, line
    assert raised.value.returncode == code, line
    for part in said:
        assert part in line, line
    assert "secret" not in line.replace("aws_secret_access_key", "").replace("AWS_SECRET_ACCESS_KEY", "")


def test_a_source_in_trouble_at_the_start_is_told(tmp_path: Path) -> None:
    """It is asked again for as long as a start takes, and then named. All at once: each takes a start's time."""

    def mount(trouble: Trouble) -> tuple[int, str]:
        folder = tmp_path / trouble
        (folder / "m").mkdir(parents=True)
        with Sources() as sources, SmallS3({"bucket": objects(1)}, sources.keys.judge) as store:
            sources.trouble("container", trouble)
            cli = CommandLine(folder).with_environment(RECIPES["container"](sources, folder).environment)
            done = cli.run("mount", "s3://bucket", folder / "m", "--endpoint-url", store.url)
            assert store.seen == []
        return done.returncode, done.stderr.strip()

    troubles: list[Trouble] = ["500", "throttled", "hangs"]
    with ThreadPoolExecutor(len(troubles)) as threads:
        for code, line in threads.map(mount, troubles):
            assert code == 3
            assert len(line.splitlines()) == 1, line
            assert "credentials" in line


def test_a_source_that_is_late_at_the_start_is_waited_for(mounted: Mounted, sources: Sources, tmp_path: Path) -> None:
    sources.trouble("container", "500")
    timer = threading.Timer(3, sources.mend)
    with SmallS3({"bucket": objects(1)}, sources.keys.judge) as store:
        timer.start()
        mount = mounted_by(mounted, store, RECIPES["container"](sources, tmp_path))
        look(mount, 0)
    timer.join()


def test_nothing_is_asked_of_any_source_without_signatures(mounted: Mounted, sources: Sources, tmp_path: Path) -> None:
    with SmallS3({"bucket": objects(2)}) as store:
        mount = mounted_by(mounted, store, RECIPES["container"](sources, tmp_path), no_sign_request=True)
        look(mount, 1)
        assert sources.asked("container") == []
        assert {one.request.access_key for one in store.seen} == {""}


# -- the way to the sources


@pytest.mark.parametrize("place", ["--ca-bundle", "AWS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_who_is_trusted_for_the_store_is_for_the_sources(mounted: Mounted, tmp_path: Path, place: str) -> None:
    identity = Authority(tmp_path / "authority").server("127.0.0.1")
    with (
        Sources(tls=identity.context()) as sources,
        SmallS3({"bucket": objects(2)}, sources.keys.judge, tls=identity.context()) as store,
    ):
        recipe = RECIPES["web-identity"](sources, tmp_path)
        variables = {} if place.startswith("--") else {place: str(identity.trust)}
        options = {"ca_bundle": identity.trust} if place.startswith("--") else {}
        mount = mounted(store, "bucket", env={**recipe.environment, **variables}, **options)
        look(mount, 1)
        assert len(sources.asked("web-identity")) == 1


@pytest.mark.parametrize(
    ("variables", "through"),
    [
        ({"HTTP_PROXY": "{proxy}"}, True),
        ({"HTTP_PROXY": "{proxy}", "NO_PROXY": "127.0.0.1:{port}"}, False),
    ],
)
def test_sources_are_reached_as_the_store_is(
    mounted: Mounted, sources: Sources, tmp_path: Path, variables: Mapping[str, str], through: bool
) -> None:
    with SmallS3({"bucket": objects(2)}, sources.keys.judge) as store, ForwardProxy() as proxy:
        recipe = RECIPES["web-identity"](sources, tmp_path)
        set_to = {name: text.format(proxy=proxy.url, port=sources.port) for name, text in variables.items()}
        mount = mounted_by(mounted, store, replace(recipe, environment={**recipe.environment, **set_to}))
        look(mount, 1)
        assert sum(one.port == sources.port for one in proxy.passed) == (1 if through else 0)
