"""What a log line looks like, and what is never in one."""

from __future__ import annotations

import logging
import stat
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3stream_daemon.exits import ExitError
from s3stream_daemon.logs import LineFormatter, Masker, OwnerOnlyFileHandler, configure_logs

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
TOKEN = "FwoGZXIvYXdzEXAMPLETOKEN=="


@pytest.fixture
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raising, hook = root.handlers[:], root.level, logging.raiseExceptions, threading.excepthook
    levels = {name: logging.getLogger(name).level for name in ("s3stream_fs", "s3stream_daemon")}
    root.handlers = []
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers = handlers
    root.setLevel(level)
    for name, own in levels.items():
        logging.getLogger(name).setLevel(own)
    logging.captureWarnings(False)
    logging.raiseExceptions = raising
    threading.excepthook = hook


@pytest.mark.parametrize(
    "text",
    [
        f"secret {SECRET}",
        f"token={TOKEN}",
        "Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20260101, Signature=feedbeef",
        "{'Authorization': b'AWS4-HMAC-SHA256 Signature=feedbeef'}",
        "GET /k?X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F2026&X-Amz-Signature=feedbeef&a=1",
        "X-Amz-Security-Token: feedbeef",
        "aws_secret_access_key = feedbeef",
        "proxy http://user:feedbeef@proxy:3128/",
    ],
)
def test_secrets_are_blackened(text: str) -> None:
    masked = Masker({"AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN}).mask(text)
    for secret in (SECRET, TOKEN, "feedbeef", "AKIAIOSFODNN7EXAMPLE"):
        assert secret not in masked
    assert "***" in masked


def test_ordinary_text_stays() -> None:
    text = "s3://bucket/key: 412 after 3 attempts, request id 4442587FB7D0A2F9"
    assert Masker({"AWS_SECRET_ACCESS_KEY": "s3", "AWS_SESSION_TOKEN": ""}).mask(text) == text


def test_a_record_is_one_line_whatever_key_it_names() -> None:
    record = logging.LogRecord("s3stream_fs.x", logging.WARNING, "", 0, "key %s", ("a\n2026 ERROR b\x1b[0m",), None)
    line = LineFormatter(Masker({})).format(record)
    assert line.endswith("Z WARNING s3stream_fs.x: key a\\n2026 ERROR b\\x1b[0m")


def test_a_traceback_is_indented_and_masked() -> None:
    try:
        raise ValueError(f"got {SECRET}")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("s3stream_fs", logging.CRITICAL, "", 0, "bug", (), info)
    first, *rest = LineFormatter(Masker({"AWS_SECRET_ACCESS_KEY": SECRET})).format(record).splitlines()
    assert first.endswith("bug")
    assert rest
    assert all(line.startswith("    ") for line in rest)
    assert rest[-1] == "    ValueError: got ***"


@pytest.mark.usefixtures("logging_restored")
def test_the_file_is_the_owners_and_libraries_are_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.log"
    configure_logs("debug", path, stderr=True, environ={"AWS_SECRET_ACCESS_KEY": SECRET})
    logging.getLogger("s3stream_fs.x").debug("ours %s", SECRET)
    logging.getLogger("botocore.auth").info("theirs")
    logging.getLogger("botocore.auth").warning("their warning")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("careful", stacklevel=1)
    thread = threading.Thread(target=lambda: 1 // 0, name="diver")
    thread.start()
    thread.join()
    text = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "ours ***" in text
    assert "theirs" not in text
    assert "their warning" in text
    assert "careful" in text
    assert "bug in thread diver" in text
    assert capsys.readouterr().err == text


@pytest.mark.usefixtures("logging_restored")
def test_a_log_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "link.log").symlink_to("elsewhere")
    for name in ("absent/a.log", "link.log", ""):
        with pytest.raises(ExitError, match="--log-file"):
            configure_logs("info", tmp_path / name, stderr=False)


def test_a_log_rotates_and_is_bounded(tmp_path: Path) -> None:
    handler = OwnerOnlyFileHandler(tmp_path / "a.log")
    handler.maxBytes = 1000
    for number in range(200):
        handler.emit(logging.LogRecord("x", logging.INFO, "", 0, "record %d with some words in it", (number,), None))
    handler.close()
    logs = sorted(path.name for path in tmp_path.iterdir())
    assert logs == ["a.log", "a.log.1", "a.log.2", "a.log.3"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in tmp_path.iterdir())
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
