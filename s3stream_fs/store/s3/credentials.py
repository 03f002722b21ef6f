"""The keys that requests are signed with: one set at a time, for every request of a bucket.

The AWS chain finds them (botocore's own, in a thread: it reads files, asks servers and starts processes). They are
asked for anew in good time, the old ones are used until their real end, and what a source does meanwhile hurts nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import botocore.credentials
import botocore.exceptions
import botocore.session
import outcome
import trio
from botocore.config import Config

from s3stream_fs.errors import Denied, StoreError, StoreUnavailable
from s3stream_fs.store.s3.faults import from_source

log = logging.getLogger(__name__)

_ANSWER_SECONDS: Final = 20.0
"""A source that has not answered by then hangs: STS takes 0.1 s, a person's script some seconds."""

_EARLY_SECONDS: Final = 15 * 60.0
_EARLY_SHARE: Final = 1 / 3
"""Keys are renewed 15 minutes before their end, as botocore does it; of short lives in the last third."""

_AGAIN_SECONDS: Final = 30.0
"""How long after a source failed it is asked again while the old keys are good; less where they end before."""

_FORCED_SECONDS: Final = 5.0
"""Keys that the store refuses are asked for anew at most this often: a file that was not rotated yet may be by then."""

_HANGING: Final = 4
"""Threads that may wait for sources that hang; beyond that nobody asks."""


@dataclass(frozen=True, slots=True)
class Keys:
    """``ends_at`` is on trio's clock, None for keys without an end. ``source`` is botocore's name of their source."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    token: str | None = field(repr=False)
    source: str
    ends_at: float | None = None

    def same_as(self, other: Keys) -> bool:
        return (self.access_key, self.secret_key, self.token) == (other.access_key, other.secret_key, other.token)


@dataclass(frozen=True, slots=True)
class Found:
    """What a source gave: the keys, and for how many seconds they are good (None: for ever)."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    token: str | None = field(repr=False)
    source: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class CredentialStatistics:
    """``seconds_left`` is None for keys without an end, and where there are none; ``asking``: for others, just now."""

    source: str
    seconds_left: float | None
    asking: bool
    renewals: int
    failures: int
    failure: str


class Keyring:
    """``load`` runs in a thread and raises StoreError: StoreUnavailable where asking again may help."""

    def __init__(self, load: Callable[[], Found]) -> None:
        self._load = load
        self._keys: Keys | None = None
        self._loading: trio.Event | None = None
        """Set when the question that is under way has been answered."""
        self._hanging = 0
        self._renew_at = 0.0
        self._forced_at = -_FORCED_SECONDS
        self._failure: StoreError | None = None
        self._told = False
        self._renewals = 0
        self._failures = 0

    async def get(self) -> Keys:
        """Keys that are good now. Waits only where there are none. Raises Denied, StoreUnavailable."""
        keys = self._keys
        now = trio.current_time()
        if keys is not None and (keys.ends_at is None or now < keys.ends_at):
            if now >= self._renew_at:
                self._ask()
            return keys
        await self._answered()
        if self._keys is keys or self._keys is None:
            raise (self._failure or StoreUnavailable("the source of credentials gave none")).again()
        return self._keys

    async def renew(self, refused: Keys) -> bool:
        """The store refuses ``refused``: ask for others, files included. Whether there are others now."""
        if self._keys is not refused:
            return self._keys is not None
        now = trio.current_time()
        if self._loading is None:
            if now - self._forced_at < _FORCED_SECONDS:
                return False
            self._forced_at = now
        await self._answered()
        return self._keys is not refused and self._keys is not None

    def statistics(self) -> CredentialStatistics:
        keys = self._keys
        left = None if keys is None or keys.ends_at is None else round(keys.ends_at - trio.current_time(), 1)
        return CredentialStatistics(
            "" if keys is None else keys.source,
            left,
            self._loading is not None,
            self._renewals,
            self._failures,
            "" if self._failure is None else str(self._failure),
        )

    async def _answered(self) -> None:
        """Ask, or join who asks, and wait. Raises StoreUnavailable where no answer comes."""
        self._ask()
        asked = self._loading
        if asked is None:
            raise StoreUnavailable("the source of credentials does not answer")
        with trio.move_on_after(_ANSWER_SECONDS):
            await asked.wait()
        if not asked.is_set():
            if self._loading is asked:
                # Its thread goes on; should it ever answer, that counts. The next who needs keys asks another time.
                self._loading = None
                self._hanging += 1
                self._failed(StoreUnavailable("the source of credentials does not answer"))
            asked.set()

    def _ask(self) -> None:
        if self._loading is not None or self._hanging >= _HANGING:
            return
        asked = self._loading = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def answered(result: outcome.Outcome[Found]) -> None:
            try:
                token.run_sync_soon(self._landed, asked, result)
            except trio.RunFinishedError:
                log.debug("the mount ended before the source of credentials answered")

        trio.lowlevel.start_thread_soon(self._load, answered)

    def _landed(self, asked: trio.Event, result: outcome.Outcome[Found]) -> None:
        if self._loading is asked:
            self._loading = None
        else:
            self._hanging -= 1
        match result:
            case outcome.Value(found):
                self._take(found)
            case outcome.Error(StoreError() as error):
                self._failed(error)
            case outcome.Error(error):
                log.error("bug: a source of credentials failed", exc_info=error)
                self._failed(StoreUnavailable(f"{type(error).__name__} in a source of credentials"))
        asked.set()

    def _take(self, found: Found) -> None:
        now = trio.current_time()
        ends_at = None if found.seconds is None else now + found.seconds
        keys = Keys(found.access_key, found.secret_key, found.token, found.source, ends_at)
        if self._keys is not None and keys.same_as(self._keys):
            # The same keys: those who were refused them are to know.
            keys = self._keys
        else:
            self._renewals += self._keys is not None
        self._renew_at = float("inf")
        if found.seconds is not None and ends_at is not None:
            self._renew_at = ends_at - min(_EARLY_SECONDS, found.seconds * _EARLY_SHARE)
            if keys is self._keys:
                self._renew_at = now + self._pause(now)
        if self._told:
            log.info("the source of credentials (%s) answers again", found.source)
        self._keys, self._failure, self._told = keys, None, False

    def _failed(self, error: StoreError) -> None:
        now = trio.current_time()
        self._failure = error
        self._failures += 1
        self._renew_at = now + self._pause(now)
        keys = self._keys
        if keys is not None and not self._told:
            self._told = True
            left = "" if keys.ends_at is None else f" for {max(keys.ends_at - now, 0):.0f} s more"
            log.warning("credentials were not renewed: %s; those in hand (%s) are used%s", error, keys.source, left)

    def _pause(self, now: float) -> float:
        if self._keys is None or self._keys.ends_at is None:
            return _AGAIN_SECONDS
        return min(_AGAIN_SECONDS, max((self._keys.ends_at - now) / 4, 1.0))


class Chain:
    """Asks botocore's chain, from its files on, each time it is called. Blocks; raises StoreError.

    ``skew`` is how far this machine's clock is behind the store's, which says when keys end.
    """

    def __init__(self, profile: str | None, ca_bundle: Path | None) -> None:
        self._profile = profile
        self._ca_bundle = ca_bundle
        self.skew = timedelta()

    def __call__(self) -> Found:
        try:
            session = botocore.session.Session(profile=self._profile)
            if self._ca_bundle is not None:
                session.set_config_variable("ca_bundle", str(self._ca_bundle))
            session.set_default_client_config(
                Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2})
            )
            _prepare(session)
            credentials = session.get_credentials()
            if credentials is None:
                raise Denied(
                    "no usable credentials were found in the environment, in ~/.aws or from a role of this machine"
                )
            if isinstance(credentials, botocore.credentials.RefreshableCredentials):
                # Those that were just fetched are not to be fetched again because they are short-lived, nor to be
                # called ended because this machine's clock is wrong: so it is always early for them.
                credentials._advisory_refresh_timeout = credentials._mandatory_refresh_timeout = 0
                credentials._time_fetcher = lambda: datetime.min.replace(tzinfo=UTC)
            frozen = credentials.get_frozen_credentials()
            ends: datetime | None = getattr(credentials, "_expiry_time", None)
        except StoreError:
            raise
        except Exception as error:
            raise from_source(error) from None
        seconds = None if ends is None else (ends - datetime.now(UTC) - self.skew).total_seconds()
        return Found(frozen.access_key, frozen.secret_key, frozen.token, str(credentials.method), seconds)


def _prepare(session: botocore.session.Session) -> None:
    """What botocore's sources do that is right for a program that ends soon, and wrong here."""
    chain = session.get_component("credential_provider")
    for provider in chain.providers:
        if (fetcher := getattr(provider, "_role_fetcher", None)) is not None:
            # An instance's keys near their end: it believes that they live a quarter of an hour longer than they do.
            fetcher._evaluate_expiration = lambda _credentials: None
        if hasattr(provider, "_prompter"):
            provider._prompter = _no_code


def _no_code(_prompt: str) -> str:
    raise Denied(
        "no usable credentials: the profile's role takes an MFA code, and nobody can be asked for one; use the keys of"
        " a session, or credential_process"
    )
