"""The keys that requests are signed with: one set at a time, for every request of a bucket.

The AWS chain finds them (botocore's own, in a thread: it reads files, asks servers and starts processes). They are
asked for anew in good time, the old ones are used until their real end, and what a source does meanwhile hurts nobody.
"""

from __future__ import annotations

import logging
import math
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

import botocore.credentials
import botocore.exceptions
import botocore.session
import outcome
import trio
from botocore.config import Config

from s3stream_fs.errors import NoKeys, StoreError, StoreUnavailable
from s3stream_fs.store.s3.faults import from_source
from s3stream_fs.store.s3.trust import Trust

log = logging.getLogger(__name__)

_SILENT: Final = "the source of credentials does not answer"

_ANSWER_SECONDS: Final = 10.0
"""A source that has not answered by then hangs: STS takes 0.1 s, a person's script some seconds."""

_EARLY_SECONDS: Final = 15 * 60.0
_EARLY_SHARE: Final = 1 / 3
"""Keys are renewed 15 minutes before their end, as botocore does it; of short lives in the last third."""

_AGAIN_SECONDS: Final = 30.0
"""How long after a source failed it is asked again while the old keys are good; less where they end before."""

_FORCED_SECONDS: Final = 5.0
"""Keys that the store refuses are asked for anew at most this often: a file that was not rotated yet may be by then."""

_LOOK_SECONDS: Final = 10.0
"""How often it is looked whether keys that nobody uses are near their end; those of short lives have some minutes."""

_PROCESS_SECONDS: Final = 60.0
"""A credential_process that runs for longer is ended: each question would leave one behind."""
_KILL: Final = 9
"""SIGKILL, by its number: this package handles no signals."""

_HANGING: Final = 4
_HANGING_SECONDS: Final = 300.0
"""So many threads may wait for sources that hang; after that one more is started each five minutes."""


@dataclass(frozen=True, slots=True)
class Keys:
    """``source`` is botocore's name of where they are from."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    token: str | None = field(repr=False)
    source: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a source gave: the keys, and for how many seconds they are good (None: for ever)."""

    keys: Keys
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


class _Question:
    """What a source was asked, and whether it has answered."""

    __slots__ = ("asked_at", "over")

    def __init__(self, asked_at: float) -> None:
        self.asked_at = asked_at
        self.over = trio.Event()
        """It has been answered, or is not waited for any more."""


class Keyring:
    """``load`` runs in a thread and raises StoreError: StoreUnavailable where asking again may help."""

    def __init__(self, load: Callable[[], Found]) -> None:
        self._load = load
        self._keys: Keys | None = None
        self._ends_at = math.inf
        """On trio's clock, which nobody sets."""
        self._question: _Question | None = None
        """The one that is waited for."""
        self._hanging = 0
        """Questions that were given up and whose threads go on."""
        self._renew_at = math.inf
        self._forced_at = -math.inf
        self._asked_at = -math.inf
        self._failure: StoreError | None = None
        self._told = False
        self._renewals = 0
        self._failures = 0

    async def get(self) -> Keys:
        """Keys that are good now. Waits only where there are none. Raises NoKeys, StoreUnavailable."""
        now = trio.current_time()
        if self._keys is not None and now < self._ends_at:
            if now >= self._renew_at:
                self._ask(now)
            return self._keys
        await self._answered()
        if self._keys is None or self._failure is not None:
            raise (self._failure or StoreUnavailable(_SILENT)).again()
        return self._keys

    async def renew(self, refused: Keys) -> bool:
        """The store refuses ``refused``: ask for others, files included. Whether there are others now."""
        if self._keys is not refused:
            return self._keys is not None
        now = trio.current_time()
        if self._question is None:
            if now - self._forced_at < _FORCED_SECONDS:
                return False
            self._forced_at = now
        await self._answered()
        return self._keys is not refused and self._keys is not None

    async def keep(self) -> None:
        """Ask in good time for others also while nobody needs keys. Runs until it is cancelled."""
        while True:
            now = trio.current_time()
            if self._keys is not None and now >= self._renew_at:
                self._ask(now)
            await trio.sleep_until(now + _LOOK_SECONDS)

    def statistics(self) -> CredentialStatistics:
        left = self._ends_at - trio.current_time()
        return CredentialStatistics(
            "" if self._keys is None else self._keys.source,
            round(left, 1) if self._keys is not None and math.isfinite(left) else None,
            self._question is not None,
            self._renewals,
            self._failures,
            "" if self._failure is None else str(self._failure),
        )

    async def _answered(self) -> None:
        """Ask, or join who asks, and wait. Raises StoreUnavailable where no answer comes."""
        self._ask(trio.current_time())
        question = self._question
        if question is None:
            raise StoreUnavailable(_SILENT)
        with trio.move_on_at(question.asked_at + _ANSWER_SECONDS):
            await question.over.wait()
        if not question.over.is_set():
            self._give_up(question)

    def _ask(self, now: float) -> None:
        if self._question is not None and now - self._question.asked_at >= _ANSWER_SECONDS:
            self._give_up(self._question)
        if self._question is not None:
            return
        if self._hanging >= _HANGING and now - self._asked_at < _HANGING_SECONDS:
            return
        question = self._question = _Question(now)
        self._asked_at = now
        token = trio.lowlevel.current_trio_token()

        def answered(result: outcome.Outcome[Found]) -> None:
            try:
                token.run_sync_soon(self._landed, question, result)
            except trio.RunFinishedError:
                log.debug("the mount ended before the source of credentials answered")

        trio.lowlevel.start_thread_soon(self._load, answered)

    def _give_up(self, question: _Question) -> None:
        """Its thread goes on. Should it ever answer, that counts where there is nothing better."""
        if self._question is question:
            self._question = None
            self._hanging += 1
            self._failed(StoreUnavailable(_SILENT))
        question.over.set()

    def _landed(self, question: _Question, result: outcome.Outcome[Found]) -> None:
        late = self._question is not question
        if late:
            self._hanging -= 1
        else:
            self._question = None
        match result:
            case outcome.Value(found) if not late or self._failure is not None:
                self._take(found)
            case outcome.Error(StoreError() as error) if not late:
                self._failed(error)
            case outcome.Error(error) if not late:
                log.error("bug: a source of credentials failed", exc_info=error)
                self._failed(StoreUnavailable(f"{type(error).__name__} in a source of credentials"))
        question.over.set()

    def _take(self, found: Found) -> None:
        now = trio.current_time()
        if found.keys == self._keys:
            # The same keys: those who were refused them are to know, and not be given them as others.
            again = True
        else:
            again = False
            self._renewals += self._keys is not None
            self._keys = found.keys
        self._failure = None
        if found.seconds is None:
            self._ends_at = self._renew_at = math.inf
        elif found.seconds <= 0:
            # Ended before they came? This machine's clock may be wrong. Whether they are good the store will say.
            self._ends_at, self._renew_at = math.inf, now + _AGAIN_SECONDS
        else:
            self._ends_at = now + found.seconds
            self._renew_at = self._ends_at - min(_EARLY_SECONDS, found.seconds * _EARLY_SHARE)
            if again:  # there are no others yet
                self._renew_at = max(self._renew_at, now + self._pause(now))
        if self._told:
            log.info("the source of credentials (%s) answers again", found.keys.source)
        self._told = False

    def _failed(self, error: StoreError) -> None:
        now = trio.current_time()
        self._failure = error
        self._failures += 1
        self._renew_at = now + self._pause(now)
        if self._keys is not None and not self._told:
            self._told = True
            left = self._ends_at - now
            span = f" for {max(left, 0):.0f} s more" if math.isfinite(left) else ""
            log.warning(
                "credentials were not renewed: %s; those in hand (%s) are used%s", error, self._keys.source, span
            )

    def _pause(self, now: float) -> float:
        return min(_AGAIN_SECONDS, max((self._ends_at - now) / 4, 1.0))


class Chain:
    """Asks botocore's chain, from its files on, each time it is called. Blocks; raises StoreError.

    ``skew`` is how far this machine's clock is behind the store's, which says when keys end.
    """

    def __init__(self, profile: str | None, trust: Trust) -> None:
        self._profile = profile
        self._trust = trust
        self.skew = timedelta()
        self._processes = _Processes()

    def close(self) -> None:
        """End the processes that were asked and have not answered, and that may be started yet."""
        self._processes.close()

    def __call__(self) -> Found:
        with self._trust.bundle() as bundle:
            return self._ask(bundle)

    def _ask(self, bundle: str | None) -> Found:
        try:
            session = botocore.session.Session(profile=self._profile)
            if bundle is not None:
                session.set_config_variable("ca_bundle", bundle)
            session.set_default_client_config(
                Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2})
            )
            _prepare(session, self._processes)
            credentials = session.get_credentials()
            if credentials is None:
                raise NoKeys(
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
        keys = Keys(frozen.access_key, frozen.secret_key, frozen.token, str(credentials.method))
        return Found(keys, seconds)


def _prepare(session: botocore.session.Session, processes: _Processes) -> None:
    """What botocore's sources do that is right for a program that ends soon, and wrong here."""
    chain = session.get_component("credential_provider")
    for provider in chain.providers:
        if (fetcher := getattr(provider, "_role_fetcher", None)) is not None:
            # An instance's keys near their end: it believes that they live a quarter of an hour longer than they do.
            fetcher._evaluate_expiration = lambda _credentials: None
        if hasattr(provider, "_popen"):
            provider._popen = partial(_Process, among=processes)
        if hasattr(provider, "_prompter"):
            provider._prompter = _no_code


class _Process(subprocess.Popen[bytes]):
    """A credential_process. botocore waits for it without an end; here it has one, and is ``among`` them until then."""

    def __init__(self, arguments: list[str], *, among: _Processes, **options: Any) -> None:
        super().__init__(arguments, start_new_session=True, **options)
        self._among = among
        among.add(self)

    def communicate(self, input: bytes | None = None, timeout: float | None = None) -> tuple[bytes, bytes]:
        try:
            return super().communicate(input, _PROCESS_SECONDS if timeout is None else timeout)
        except subprocess.TimeoutExpired:
            self.end()
            super().communicate()
            raise NoKeys(f"no usable credentials: credential_process takes over {_PROCESS_SECONDS:g} s") from None
        finally:
            self._among.remove(self)

    def end(self) -> None:
        """End it, and what it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, _KILL)


class _Processes:
    """Those that run. Used by several threads: whoever comes after the close is ended by itself."""

    def __init__(self) -> None:
        self._running: set[_Process] = set()
        self._closed = False

    def add(self, process: _Process) -> None:
        self._running.add(process)
        if self._closed:
            process.end()

    def remove(self, process: _Process) -> None:
        self._running.discard(process)

    def close(self) -> None:
        self._closed = True
        for process in list(self._running):
            process.end()


def _no_code(_prompt: str) -> str:
    raise NoKeys(
        "no usable credentials: the profile's role takes an MFA code, and nobody can be asked for one; use the keys of"
        " a session, or credential_process"
    )
