"""Log handlers: where records go, how a line looks, and what must never be in one.

Owns the process's handlers. Never decides what is worth a record.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import re
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, TextIO

from s3stream_daemon.exits import ExitCode, ExitError
from s3stream_daemon.folders import private_folder

_MAX_LOG_NBYTES: Final = 10 * 1024**2
_MAX_OLD_LOGS: Final = 3
"""40 MiB in all: weeks of an ordinary mount's log, and no disk notices it."""

_OWN_LOGGERS: Final = ("s3stream_fs", "s3stream_daemon")

_TOLD_BY_OURSELVES: Final = ("botocore.credentials", "botocore.tokens", "botocore.utils")
"""They log a traceback for each try to renew keys; our own line says why, once."""

_SECRET_VARIABLES: Final = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
)
_MIN_SECRET_CHARS: Final = 8
"""A shorter value (test servers take ``test``) would blacken ordinary words, and guards nothing."""
_MASK: Final = "***"
_SECRET_PATTERNS: Final = (
    # Signed URLs and headers, in each other's spelling too.
    (
        re.compile(r"(?i)\b(X-Amz-(?:Signature|Credential|Security-Token)['\"]?\s*[=:]\s*b?['\"]?)[^\s&'\",;}\])]+"),
        r"\1",
    ),
    (re.compile(r"(?i)\b((?:Signature|Credential|AWSAccessKeyId)=)[^\s&'\",;}\])]+"), r"\1"),
    (re.compile(r"(?i)\b((?:proxy-)?authorization['\"]?\s*[=:]\s*b?['\"]?)[^'\"\r\n}\])]+"), r"\1"),
    (
        re.compile(
            r"(?i)\b((?:aws_)?(?:secret_access_key|secret_key|session_token)['\"]?\s*[=:]\s*['\"]?)[^\s'\",;}\])]+"
        ),
        r"\1",
    ),
    (re.compile(r"(?i)\b(https?://)[^\s/@:]+:[^\s/@]+(?=@)"), r"\1"),
    (re.compile(r"\b()(?:AKIA|ASIA)[A-Z0-9]{16}\b"), r"\1"),
)


class Masker:
    """Blackens secrets: known values from the environment, and whatever has the form of a signature or key."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        values = {environ.get(variable, "") for variable in _SECRET_VARIABLES}
        # Longest first: one value may be the beginning of another.
        self._values = sorted((value for value in values if len(value) >= _MIN_SECRET_CHARS), key=len, reverse=True)

    def mask(self, text: str) -> str:
        for value in self._values:
            text = text.replace(value, _MASK)
        for pattern, kept in _SECRET_PATTERNS:
            text = pattern.sub(kept + _MASK, text)
        return text


class LineFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.123Z WARNING s3stream_fs.fetch: text``: one line for a record, whatever keys it names.

    Only a bug's traceback takes more, indented so that every unindented line begins a record. Masks secrets here and
    not in a filter, so that tracebacks and third-party records are covered too.
    """

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self, masker: Masker) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self.converter = time.gmtime
        self._masker = masker

    def formatMessage(self, record: logging.LogRecord) -> str:
        return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in super().formatMessage(record))

    def formatException(self, ei: object) -> str:
        text = super().formatException(ei)  # type: ignore[arg-type]
        return "\n".join(f"    {line}" for line in text.splitlines())

    def format(self, record: logging.LogRecord) -> str:
        return self._masker.mask(super().format(record))


class OwnerOnlyFileHandler(logging.handlers.RotatingFileHandler):
    """A log file with mode 0600 that rotates. A symbolic link in its place is not followed."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            path, maxBytes=_MAX_LOG_NBYTES, backupCount=_MAX_OLD_LOGS, encoding="utf-8", errors="backslashreplace"
        )

    def _open(self) -> TextIO:  # type: ignore[override]
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.baseFilename, flags, 0o600)
        return os.fdopen(descriptor, "a", encoding=self.encoding, errors=self.errors)


def configure_logs(level: str, log_file: Path | None, *, stderr: bool, environ: Mapping[str, str] = os.environ) -> None:
    """Install the process's handlers: ``log_file``, standard error, or both. Raises ExitError for an unusable file.

    Our own records count from ``level`` on; those of libraries from WARNING on, since their debug records hold headers.
    """
    handlers: list[logging.Handler] = []
    if log_file is not None:
        try:
            handlers.append(OwnerOnlyFileHandler(log_file))
        except OSError as error:
            raise ExitError(
                f"cannot write the log {log_file}: {error.strerror}; choose another with --log-file"
            ) from None
    if stderr:
        handlers.append(logging.StreamHandler(sys.stderr))
    formatter = LineFormatter(Masker(environ))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in _OWN_LOGGERS:
        logging.getLogger(name).setLevel(level.upper())
    for name in _TOLD_BY_OURSELVES:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a log on a full disk costs its lines, nothing else
    threading.excepthook = _log_thread_error


def prepare_log_folder(log_file: Path | None, own_folder: Path) -> None:
    """Make the default folder for logs where ``log_file`` lies in it; a folder that the user names must be there."""
    if log_file is not None and log_file.parent == own_folder:
        private_folder(own_folder, ExitCode.USAGE)


def _log_thread_error(args: threading.ExceptHookArgs) -> None:
    error = args.exc_value
    if error is None:
        return
    info: tuple[type[BaseException], BaseException, TracebackType | None] = (type(error), error, args.exc_traceback)
    logging.getLogger(__name__).critical("bug in thread %s", args.thread.name if args.thread else "?", exc_info=info)
