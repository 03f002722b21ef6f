"""Sources of credentials on loopback: an instance's, a container's, STS, SSO, a process and files. And who may ask S3.

Owns which keys there are and until when, what a source is asked, and what is wrong with it for a time. ``RECIPES`` says
for each source what a user sets to have it.
"""

from __future__ import annotations

import hashlib
import json
import ssl
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal
from urllib.parse import parse_qs

from loopback import Answer, Loopback, Request
from mounting import Option
from smalls3 import error

Trouble = Literal["500", "throttled", "hangs", "nothing"]

ROLE: Final = "arn:aws:iam::123456789012:role/training"
_START_URL: Final = "https://tests.awsapps.example/start"
_FAR: Final = "2099-01-01T00:00:00Z"


@dataclass(frozen=True)
class Key:
    """One access key. ``until`` is by the monotonic clock, ``expiration`` the same by the wall clock."""

    access_key: str
    secret: str
    token: str
    until: float
    expiration: datetime

    @property
    def expires(self) -> str:
        return self.expiration.strftime("%Y-%m-%dT%H:%M:%SZ")


class Keys:
    """Which access keys S3 takes. ``judge`` is one for SmallS3; what it refused for its keys is counted."""

    def __init__(self) -> None:
        self._keys: dict[str, Key] = {}
        self._lock = threading.Lock()
        self.refused: list[tuple[str, str]] = []
        """Bucket and code of each refusal."""
        self.last = ""
        """The access key that was issued last."""

    def issue(self, source: str, life: timedelta, token: str | None = None) -> Key:
        """New keys. ``token`` "" makes them such as a user has, without a session."""
        with self._lock:
            name = f"{source.upper().replace('-', '')}{len(self._keys):06d}"
            said = f"token-{name}" if token is None else token
            # A source tells whole seconds; what it tells is never later than what is so.
            end = datetime.now(UTC) + life
            key = Key(name, f"secret-{name}", said, time.monotonic() + life.total_seconds(), end)
            self._keys[name] = key
            self.last = name
            return key

    def revoke(self, but: str | None = None) -> None:
        """All that were issued until now have expired, whatever was said of them; those of one source have not."""
        with self._lock:
            self._keys = {
                name: key if but is not None and name.startswith(but.upper()) else replace(key, until=0.0)
                for name, key in self._keys.items()
            }

    def forget(self) -> None:
        """As if none had ever been: deleted, as a user's old keys are."""
        with self._lock:
            self._keys.clear()

    def fault_of(self, request: Request) -> str:
        """The S3 code for what is wrong with a request's keys; empty where nothing is."""
        with self._lock:
            key = self._keys.get(request.access_key)
        if not request.access_key:
            return "AccessDenied"
        if key is None:
            return "InvalidAccessKeyId"
        if key.token != request.token:
            return "InvalidToken"
        return "ExpiredToken" if time.monotonic() > key.until else ""

    def judge(self, request: Request, bucket: str) -> Answer | None:
        code = self.fault_of(request)
        if not code:
            return None
        with self._lock:
            self.refused.append((bucket, code))
        # Amazon says 400; some others say 403.
        return error(400 if code in ("ExpiredToken", "InvalidToken") and len(bucket) % 2 else 403, code)

    def nrefused(self, bucket: str) -> int:
        with self._lock:
            return sum(one == bucket for one, _ in self.refused)


@dataclass(frozen=True)
class Asked:
    """One question to a source, and the status it got."""

    source: str
    status: int
    at: float


class Sources(Loopback):
    """``with Sources() as sources``: all that answer over HTTP. Keys live for ``life``."""

    def __init__(self, life: timedelta = timedelta(hours=6), tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.life = life
        self.keys = Keys()
        self.refuse_new_keys = False
        """Whether S3 knows none of the keys that are handed out from now on."""
        self._troubles: dict[str, tuple[Trouble, threading.Event]] = {}
        self._asked: list[Asked] = []
        self._lock = threading.Lock()

    def trouble(self, source: str, what: Trouble) -> None:
        """From now on, until ``mend``."""
        self._troubles[source] = (what, threading.Event())

    def in_trouble(self, source: str) -> bool:
        return source in self._troubles

    def mend(self, source: str | None = None) -> None:
        """What hangs goes on. None: every source."""
        for name in list(self._troubles) if source is None else [source]:
            _, mended = self._troubles.pop(name)
            mended.set()

    def asked(self, source: str) -> list[Asked]:
        with self._lock:
            return [one for one in self._asked if one.source == source]

    def answer(self, request: Request) -> Answer:
        source = self._source_of(request)
        trouble, mended = self._troubles.get(source, (None, None))
        answer = self._given(source, request)
        if trouble == "500":
            answer = Answer(500, b"{}", {"Content-Type": "application/json"})
        elif trouble == "throttled":
            answer = _throttled(source)
        elif trouble == "nothing":
            answer = Answer(200, b"")
        elif trouble == "hangs":
            answer = Answer(answer.status, answer.body, answer.headers, after=mended)
        if "/api/token" not in request.path and not request.path.endswith("/security-credentials/"):
            with self._lock:
                self._asked.append(Asked(source, answer.status, time.monotonic()))
        return answer

    def _source_of(self, request: Request) -> str:
        """Sources that stand for several tests at once are told apart by their path or role."""
        if request.path.startswith("/latest/"):
            return "instance"
        if request.path == "/federation/credentials":
            return "sso"
        if request.path == "/token":
            return "sso-oidc"
        if request.method == "POST":
            return "web-identity" if b"WebIdentity" in request.body else "assume-role"
        return request.path.strip("/")

    def _given(self, source: str, request: Request) -> Answer:
        match source:
            case "instance":
                return self._instance(request)
            case "container":
                if request.headers.get("authorization") != "container-secret":
                    return _json({"code": "AccessDenied"}, 403)
                return _json(_plain(self._issue(source)))
            case "process":
                return _json({"Version": 1, **_plain(self._issue(source), token="SessionToken")})
            case "sso":
                if request.headers.get("x-amz-sso_bearer_token") not in ("sso-token", "sso-token-2"):
                    return _json({"__type": "UnauthorizedException", "message": "Session token not found"}, 401)
                key = self._issue(source)
                return _json(
                    {
                        "roleCredentials": {
                            "accessKeyId": key.access_key,
                            "secretAccessKey": key.secret,
                            "sessionToken": key.token,
                            "expiration": int(key.expiration.timestamp() * 1000),
                        }
                    }
                )
            case "sso-oidc":
                return _json(
                    {"accessToken": "sso-token-2", "expiresIn": 28800, "refreshToken": "r2", "tokenType": "Bearer"}
                )
            case "assume-role" | "web-identity":
                return self._sts(source, request)
        return Answer(404)

    def _issue(self, source: str) -> Key:
        key = self.keys.issue(source, self.life)
        if self.refuse_new_keys:
            self.keys.revoke()
        return key

    def _instance(self, request: Request) -> Answer:
        if request.path == "/latest/api/token":
            if request.method != "PUT":
                return Answer(405)
            return Answer(200, b"session", {"x-aws-ec2-metadata-token-ttl-seconds": "21600"})
        if request.headers.get("x-aws-ec2-metadata-token") != "session":
            return Answer(401)
        if request.path.endswith("/security-credentials/"):
            return Answer(200, b"role")
        return _json({"Code": "Success", "Type": "AWS-HMAC", **_plain(self._issue("instance"))})

    def _sts(self, source: str, request: Request) -> Answer:
        said = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        action = said["Action"]
        if source == "assume-role" and (code := self.keys.fault_of(request)):
            return _sts_error(403, code)
        if source == "web-identity" and said.get("WebIdentityToken") != "header.claims.signature":
            return _sts_error(400, "InvalidIdentityToken")
        key = self._issue(source)
        body = (
            f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result><Credentials>'
            f"<AccessKeyId>{key.access_key}</AccessKeyId><SecretAccessKey>{key.secret}</SecretAccessKey>"
            f"<SessionToken>{key.token}</SessionToken><Expiration>{key.expires}</Expiration></Credentials>"
            "<AssumedRoleUser><AssumedRoleId>A:s</AssumedRoleId><Arn>arn:aws:sts::1:assumed-role/r/s</Arn>"
            f"</AssumedRoleUser></{action}Result></{action}Response>"
        )
        return Answer(200, body.encode(), {"Content-Type": "text/xml"})


def _plain(key: Key, *, token: str = "Token") -> dict[str, str]:
    return {
        "AccessKeyId": key.access_key,
        "SecretAccessKey": key.secret,
        token: key.token,
        "Expiration": key.expires,
    }


def _json(said: Mapping[str, object], status: int = 200) -> Answer:
    return Answer(status, json.dumps(said).encode(), {"Content-Type": "application/json"})


def _sts_error(status: int, code: str) -> Answer:
    body = (
        f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{code}</Message></Error></ErrorResponse>"
    )
    return Answer(status, body.encode(), {"Content-Type": "text/xml"})


def _throttled(source: str) -> Answer:
    if source in ("assume-role", "web-identity"):
        return _sts_error(400, "Throttling")
    return _json({"__type": "TooManyRequestsException", "message": "Rate exceeded"}, 429)


@dataclass(frozen=True)
class Recipe:
    """What a user sets. A variable that is None is taken away."""

    environment: Mapping[str, str | None]
    options: Mapping[str, Option] = field(default_factory=dict)


_NO_KEYS: Final = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}


def profile(folder: Path, config: str = "", credentials: str = "") -> dict[str, str | None]:
    """AWS's two files with this in them, and no keys in the environment."""
    (folder / "config").write_text(config)
    (folder / "credentials").write_text(credentials)
    return _NO_KEYS | {
        "AWS_CONFIG_FILE": str(folder / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
    }


def as_section(key: Key, name: str = "default") -> str:
    """Keys as they stand in ~/.aws/credentials."""
    token = f"aws_session_token = {key.token}\n" if key.token else ""
    return f"[{name}]\naws_access_key_id = {key.access_key}\naws_secret_access_key = {key.secret}\n{token}"


def _environment(sources: Sources, _: Path) -> Recipe:
    key = sources.keys.issue("environment", timedelta(days=1), token="")
    return Recipe({"AWS_ACCESS_KEY_ID": key.access_key, "AWS_SECRET_ACCESS_KEY": key.secret})


def _profile(sources: Sources, folder: Path) -> Recipe:
    key = sources.keys.issue("profile", timedelta(days=1), token="")
    return Recipe(profile(folder, credentials=as_section(key, "mine")), {"profile": "mine"})


def _file(sources: Sources, folder: Path) -> Recipe:
    return Recipe(profile(folder, credentials=as_section(sources.keys.issue("file", sources.life))))


def rotate(sources: Sources, folder: Path) -> None:
    """Write new keys into the file of the recipe "file", as the tools do that keep it fresh."""
    written = folder / "credentials.new"
    written.write_text(as_section(sources.keys.issue("file", sources.life)))
    written.replace(folder / "credentials")


def _process(sources: Sources, folder: Path) -> Recipe:
    script = folder / "keys"
    script.write_text(
        f"#!{sys.executable} -IS\nimport urllib.request as r\n"
        "r.install_opener(r.build_opener(r.ProxyHandler({})))\n"
        f"print(r.urlopen({sources.url + '/process'!r}).read().decode())\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return Recipe(profile(folder, f"[default]\ncredential_process = {script}\n"))


def _sso(sources: Sources, folder: Path) -> Recipe:
    cache = folder / "home" / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    # Logged in a while ago: the token has to be renewed first, by what was said at the login.
    login = {
        "startUrl": _START_URL,
        "region": "us-east-1",
        "accessToken": "old",
        "expiresAt": "2026-01-01T00:00:00Z",
        "refreshToken": "r1",
        "clientId": "c",
        "clientSecret": "s",
        "registrationExpiresAt": _FAR,
    }
    (cache / f"{hashlib.sha1(b'mine').hexdigest()}.json").write_text(json.dumps(login))
    config = (
        "[default]\nsso_session = mine\nsso_account_id = 123456789012\nsso_role_name = training\n"
        f"[sso-session mine]\nsso_start_url = {_START_URL}\nsso_region = us-east-1\n"
    )
    return Recipe(
        profile(folder, config)
        | {
            "HOME": str(folder / "home"),
            "AWS_ENDPOINT_URL_SSO": sources.url,
            "AWS_ENDPOINT_URL_SSO_OIDC": sources.url,
        }
    )


def _assume_role(sources: Sources, folder: Path) -> Recipe:
    key = sources.keys.issue("user", timedelta(days=1), token="")
    config = f"[profile trained]\nrole_arn = {ROLE}\nsource_profile = user\n"
    return Recipe(
        profile(folder, config, as_section(key, "user")) | {"AWS_ENDPOINT_URL_STS": sources.url}, {"profile": "trained"}
    )


def _web_identity(sources: Sources, folder: Path) -> Recipe:
    (folder / "identity").write_text("header.claims.signature")
    return Recipe(
        _NO_KEYS
        | {
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(folder / "identity"),
            "AWS_ROLE_ARN": ROLE,
            "AWS_ENDPOINT_URL_STS": sources.url,
        }
    )


def _container(sources: Sources, folder: Path) -> Recipe:
    (folder / "authorization").write_text("container-secret")
    return Recipe(
        _NO_KEYS
        | {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{sources.url}/container",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(folder / "authorization"),
        }
    )


def _instance(sources: Sources, _: Path) -> Recipe:
    return Recipe(
        _NO_KEYS | {"AWS_EC2_METADATA_DISABLED": None, "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"{sources.url}/"}
    )


RECIPES: Final[Mapping[str, Callable[[Sources, Path], Recipe]]] = {
    "environment": _environment,
    "profile": _profile,
    "file": _file,
    "process": _process,
    "sso": _sso,
    "assume-role": _assume_role,
    "web-identity": _web_identity,
    "container": _container,
    "instance": _instance,
}
"""Each source of the AWS chain, with a folder of the mount's own for its files."""

RENEWED: Final = ("process", "sso", "assume-role", "web-identity", "container", "instance")
"""Those that hand out keys with an end."""
