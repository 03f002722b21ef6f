"""The one table of options. Command line, TOML, environment and docs/CONFIGURATION.md follow from it or are checked
against it.

Owns names, parsers, defaults and help texts. Never reads argv, a file or the environment.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from s3stream_daemon.memory import MIN_MEMORY_LIMIT_NBYTES
from s3stream_daemon.units import format_size, parse_duration, parse_mode, parse_size
from s3stream_fs.bindings.native.opening import OpenMode
from s3stream_fs.cache.disk.policy import TENTH, Policy, Reserve

ENVIRONMENT_PREFIX: Final = "S3STREAM_FS_"

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
BINDINGS: Final = ("native", "pyfuse3")
OPEN_MODES: Final = tuple(OpenMode)
CACHE_POLICIES: Final = tuple(Policy)
CACHE_VERIFY_WORDS: Final = ("first", "always")
ADDRESSINGS: Final = ("auto", "path", "virtual")

_MAX_RESERVE_PERCENT: Final = 95

_MAX_COUNT: Final = 10_000  # more connections than a process may have open by default

_MAX_ID: Final = 2**32 - 2  # the kernel keeps 2**32 - 1 for "no user"


@dataclass(frozen=True, slots=True)
class Kind:
    """How a value is written. ``parse`` raises ValueError with what would be right; ``toml`` are the types that a TOML
    file may use for it, all of which ``str()`` turns into what ``parse`` reads."""

    name: str
    parse: Callable[[str], object]
    toml: tuple[type, ...] = (str,)


@dataclass(frozen=True, slots=True)
class Option:
    """One option. ``default`` is text for people; ``value`` is what it means, None where the machine decides.

    ``shorthands`` are flags without a value that stand for one of the values.
    """

    name: str
    kind: Kind
    metavar: str
    help: str
    default: str
    value: object = None
    positional: bool = False
    shorthands: dict[str, str] = field(default_factory=dict)

    @property
    def flag(self) -> str:
        return self.metavar if self.positional else f"--{self.name}"

    @property
    def key(self) -> str:
        """The key in TOML files, and the name in Python."""
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        return ENVIRONMENT_PREFIX + self.key.upper()

    @property
    def is_switch(self) -> bool:
        return self.kind is SWITCH


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError("a text that is not empty")
    return text


def _switch(text: str) -> bool:
    value = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if text.strip().lower() not in value:
        raise ValueError("true or false")
    return value[text.strip().lower()]


def _user_or_group(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text.strip(), re.ASCII) or int(text) > _MAX_ID:
        raise ValueError(f"a number from 0 to {_MAX_ID}")
    return int(text)


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text.strip(), re.ASCII) or not 1 <= int(text) <= _MAX_COUNT:
        raise ValueError(f"a number from 1 to {_MAX_COUNT}")
    return int(text)


def _account(text: str) -> str:
    if not re.fullmatch("[0-9]{12}", text.strip(), re.ASCII):
        raise ValueError("an AWS account: 12 digits")
    return text.strip()


def _url(text: str) -> str:
    right = "a URL such as https://s3.example.com:9000"
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, half an IPv6 address
        usable = False
    if not usable or parts.query or parts.fragment or not text.isprintable() or " " in text:
        raise ValueError(right)
    if parts.username is not None or parts.password is not None:
        # It would be readable in the process list and in the mount table.
        raise ValueError(f"{right}, without user and password: credentials belong into AWS's environment or files")
    return text


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return text

    return parse


def _memory(text: str) -> int:
    nbytes = parse_size(text)
    if nbytes < MIN_MEMORY_LIMIT_NBYTES:
        raise ValueError(f"at least {format_size(MIN_MEMORY_LIMIT_NBYTES)}")
    return nbytes


MIN_CACHE_NBYTES: Final = 64 * 1024**2
"""A few parts of 8 MiB: a smaller cache would evict what a stream is about to read."""


def _cache(text: str) -> int:
    nbytes = parse_size(text)
    if nbytes < MIN_CACHE_NBYTES:
        raise ValueError(f"at least {format_size(MIN_CACHE_NBYTES)}")
    return nbytes


def _reserve(text: str) -> Reserve:
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]+)?)\s*%", text.strip(), re.ASCII)
    if match is None:
        return Reserve(0.0, parse_size(text))
    percent = float(match[1])
    if percent > _MAX_RESERVE_PERCENT:
        raise ValueError(f"at most {_MAX_RESERVE_PERCENT}%, or a size")
    return Reserve(percent / 100)


def _deadline(text: str) -> float:
    seconds = parse_duration(text)
    # Without an end a reader would hang for as long as the network does; under a second no retry fits in.
    if not 1 <= seconds <= 86400:
        raise ValueError("a duration from 1s to 1d")
    return seconds


SWITCH: Final = Kind("true or false", _switch, (bool,))
TEXT: Final = Kind("text", _text)
URL: Final = Kind("URL", _url)
PATH: Final = Kind("path", _text)
PLACE: Final = Kind("path or URL", _text)
ACCOUNT: Final = Kind("number", _account)
MODE: Final = Kind("octal mode", parse_mode)  # no TOML number: 444 and 0o444 both arrive as one, and differ
ID: Final = Kind("number", _user_or_group, (int, str))
COUNT: Final = Kind("number", _count, (int, str))
MEMORY_SIZE: Final = Kind("size", _memory, (str, int))
CACHE_SIZE: Final = Kind("size", _cache, (str, int))
RESERVE: Final = Kind("percent or size", _reserve, (str, int))
CACHE_POLICY: Final = Kind("word", _one_of(*CACHE_POLICIES))
CACHE_VERIFY: Final = Kind("word", _one_of(*CACHE_VERIFY_WORDS))
DURATION: Final = Kind("duration", parse_duration, (str, int, float))
DEADLINE: Final = Kind("duration", _deadline, (str, int, float))
ADDRESSING: Final = Kind("word", _one_of(*ADDRESSINGS))
BINDING: Final = Kind("word", _one_of(*BINDINGS))
OPEN_MODE: Final = Kind("word", _one_of(*OPEN_MODES))
LOG_LEVEL: Final = Kind("word", _one_of(*LOG_LEVELS))

OPTIONS: Final[tuple[Option, ...]] = (
    Option(
        "source",
        TEXT,
        "SOURCE",
        "what to mount: s3://BUCKET or s3://BUCKET/PREFIX; an access point's ARN may stand for the bucket",
        "none",
        positional=True,
    ),
    Option("mountpoint", PATH, "MOUNTPOINT", "an empty directory", "none", positional=True),
    Option(
        "endpoint-url",
        URL,
        "URL",
        "the store's address, for stores other than Amazon S3",
        "from AWS's environment and files, else Amazon S3",
    ),
    Option("region", TEXT, "REGION", "the bucket's region", "from AWS's environment and files"),
    Option("profile", TEXT, "NAME", "profile of AWS's configuration files", "AWS_PROFILE, else default"),
    Option(
        "no-sign-request", SWITCH, "", "send no credentials: for buckets that everybody may read", "false", value=False
    ),
    Option(
        "requester-pays",
        SWITCH,
        "",
        "agree to pay for requests and transfer, for buckets that ask it",
        "false",
        value=False,
    ),
    Option(
        "addressing",
        ADDRESSING,
        "STYLE",
        "where requests name the bucket: path (http://host/bucket), virtual (http://bucket.host), or auto: what suits"
        " the endpoint",
        "auto",
        value="auto",
        shorthands={"path-style": "path", "virtual-style": "virtual"},
    ),
    Option(
        "ca-bundle",
        PATH,
        "FILE",
        "certificates (PEM) of authorities to trust besides the system's, for stores with a private one",
        "AWS_CA_BUNDLE, the profile's ca_bundle, SSL_CERT_FILE, else none",
    ),
    Option(
        "no-verify-tls",
        SWITCH,
        "",
        "check no certificates: whoever sits between can read and change the data",
        "false",
        value=False,
    ),
    Option("dual-stack", SWITCH, "", "use Amazon's hosts that have IPv6 addresses too", "false", value=False),
    Option("fips", SWITCH, "", "use Amazon's hosts with FIPS 140 cryptography", "false", value=False),
    Option(
        "expected-bucket-owner",
        ACCOUNT,
        "ACCOUNT",
        "the AWS account that owns the bucket; requests are refused if it is another's",
        "none",
    ),
    Option(
        "sse-c-key-file",
        PATH,
        "FILE",
        "the customer's key (SSE-C) with which objects are encrypted: a file of 32 bytes, or their Base64",
        "none",
    ),
    Option(
        "cache-dir",
        PATH,
        "DIR",
        "folder for the data cache; it survives restarts",
        "~/.cache/s3stream-fs, root: /var/cache/s3stream-fs",
    ),
    Option(
        "cache-size",
        CACHE_SIZE,
        "SIZE",
        "most bytes that the cache may take on disk",
        "the smaller of 20GiB and a tenth of the disk's free space",
    ),
    Option(
        "cache-reserve",
        RESERVE,
        "SHARE",
        "what the cache leaves free on its disk, whoever fills it",
        "10%",
        value=TENTH,
    ),
    Option(
        "cache-policy",
        CACHE_POLICY,
        "POLICY",
        "what a full cache does: lru evicts what was not read for longest; keep evicts only what was not read for a"
        " day, which is better for epochs over more data than fits",
        "lru",
        value="lru",
    ),
    Option(
        "cache-verify",
        CACHE_VERIFY,
        "WHEN",
        "when cached blocks are checked against their checksums: first (read after they were opened) or always",
        "first",
        value="first",
    ),
    Option(
        "memory-limit",
        MEMORY_SIZE,
        "SIZE",
        "most memory for data in flight, read ahead and kept, together with what keeping it takes; at least 64MiB",
        "the smaller of 1GiB and a quarter of what RAM and cgroup allow",
    ),
    Option(
        "metadata-ttl",
        DURATION,
        "TIME",
        "how old names, sizes and negative answers may be; 0 asks every time, inf takes the bucket as frozen"
        " (see refresh)",
        "60s",
        value=60.0,
    ),
    Option(
        "index",
        PLACE,
        "FILE",
        "show the bucket as it stands in this snapshot, a file or s3://BUCKET/KEY; nothing is listed, names are frozen"
        " as with --metadata-ttl inf",
        "none",
    ),
    Option(
        "read-deadline",
        DEADLINE,
        "TIME",
        "how long a read may wait, however often it is tried, before it fails with EIO",
        "120s",
        value=120.0,
    ),
    Option(
        "max-in-flight",
        COUNT,
        "N",
        "most requests for data at once; fewer are made while the store answers SlowDown",
        "256",
        value=256,
    ),
    Option(
        "no-hedging",
        SWITCH,
        "",
        "never send a late request for data a second time (at most 5 % are)",
        "false",
        value=False,
    ),
    Option("uid", ID, "UID", "owner of all files and directories", "who mounts"),
    Option("gid", ID, "GID", "group of all files and directories", "the group of who mounts"),
    Option("file-mode", MODE, "MODE", "permission bits of files; write bits are dropped", "0444", value=0o444),
    Option("dir-mode", MODE, "MODE", "permission bits of directories; write bits are dropped", "0555", value=0o555),
    Option(
        "binding",
        BINDING,
        "BINDING",
        "native speaks to the kernel itself; pyfuse3 goes through libfuse (the extra s3stream-fs[pyfuse3])",
        "native",
        value="native",
    ),
    Option(
        "open-mode",
        OPEN_MODE,
        "MODE",
        "who opens files: kernel, passthrough (root, Linux 6.9), daemon, or auto; with pyfuse3 it is the daemon",
        "auto",
        value="auto",
    ),
    Option(
        "allow-other",
        SWITCH,
        "",
        "let other users in; who is not root needs user_allow_other in /etc/fuse.conf",
        "false",
        value=False,
    ),
    Option(
        "log-file",
        PATH,
        "FILE",
        "where the daemon logs; with --foreground besides standard error",
        "~/.local/state/s3stream-fs/NAME.log, root: /var/log/s3stream-fs/NAME.log",
    ),
    Option("log-level", LOG_LEVEL, "LEVEL", "debug, info, warning or error", "info", value="info"),
    Option("foreground", SWITCH, "", "do not go into the background; log to standard error", "false", value=False),
)

BY_NAME: Final[dict[str, Option]] = {option.name: option for option in OPTIONS}
BY_KEY: Final[dict[str, Option]] = {option.key: option for option in OPTIONS}
SHORTHANDS: Final[dict[str, tuple[Option, str]]] = {
    name: (option, value) for option in OPTIONS for name, value in option.shorthands.items()
}
