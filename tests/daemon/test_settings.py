"""Precedence, and messages that say where a wrong value stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3stream_daemon.exits import ExitError
from s3stream_daemon.options import BY_KEY, OPTIONS, Option
from s3stream_daemon.settings import Given, find_config_file, from_mount_options, merge, read_config_file


def config_file(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def on_command_line(key: str, text: str) -> Given:
    return Given(BY_KEY[key], text, BY_KEY[key].flag)


def test_command_line_over_environment_over_file_over_default(tmp_path: Path) -> None:
    path = config_file(tmp_path, 'region = "file"\nprofile = "file"\ncache_size = "1GiB"\n')
    environ = {"S3STREAM_FS_REGION": "environment", "S3STREAM_FS_PROFILE": "environment"}
    settings = merge([on_command_line("region", "argv")], environ, path)
    assert settings["region"].value == "argv"
    assert settings["region"].origin == "--region"
    assert settings["profile"].value == "environment"
    assert settings["profile"].origin == "S3STREAM_FS_PROFILE"
    assert settings["cache_size"].value == 1024**3
    assert settings["cache_size"].origin == f"{path}: cache_size"
    assert settings["metadata_ttl"].value == 60
    assert settings["metadata_ttl"].origin == ""


def test_of_two_on_the_command_line_the_last_wins() -> None:
    settings = merge([on_command_line("region", "one"), on_command_line("region", "two")], {}, None)
    assert settings["region"].value == "two"


def test_every_option_can_be_set_in_the_file_and_by_environment(tmp_path: Path) -> None:
    examples = {
        "source": "s3://b", "mountpoint": "/m", "endpoint_url": "http://h:1", "region": "r", "profile": "p",
        "no_sign_request": True, "requester_pays": True, "addressing": "path", "ca_bundle": "/b",
        "no_verify_tls": True, "dual_stack": True, "fips": True, "expected_bucket_owner": "123456789012",
        "sse_c_key_file": "/k", "cache_dir": "/c", "cache_size": "1GiB",
        "cache_reserve": "5%", "cache_policy": "keep", "cache_verify": "always",
        "memory_limit": 2**30, "index": "/i", "metadata_ttl": 1.5, "read_deadline": 10, "max_in_flight": 9,
        "no_hedging": True,
        "binding": "pyfuse3", "open_mode": "kernel", "uid": 1, "gid": 2, "file_mode": "0440", "dir_mode": "0550",
        "allow_other": True, "log_file": "/l", "log_level": "debug", "foreground": True,
    }  # fmt: skip
    assert examples.keys() == BY_KEY.keys()
    lines = [
        f"{key} = {repr(value).lower() if isinstance(value, bool) else repr(value)}" for key, value in examples.items()
    ]
    from_file = merge([], {}, config_file(tmp_path, "\n".join(lines)))
    environ = {BY_KEY[key].variable: str(value) for key, value in examples.items()}
    from_environ = merge([], environ, None)
    for option in OPTIONS:
        assert from_file[option.key].value == from_environ[option.key].value != option.value


def test_an_empty_variable_counts_as_unset_and_foreign_ones_are_left_alone() -> None:
    settings = merge([], {"S3STREAM_FS_REGION": "", "S3STREAM_FS_PORT": "tcp://10.0.0.1:80"}, None)
    assert settings["region"].value is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cache_sise = 1", "no such key 'cache_sise'; did you mean cache_size?"),
        ("cache_size = 1.5", "cache_size must be a string or a number"),
        ("cache_size = true", "cache_size must be a string or a number"),
        ("cache_size = '20 apples'", "cache_size must be a size such as 20GiB, 512M or 10GB, not '20 apples'"),
        ("memory_limit = '1MiB'", "memory_limit must be at least 64MiB"),
        ("read_deadline = 'inf'", "read_deadline must be a duration from 1s to 1d"),
        ("metadata_ttl = nan", "metadata_ttl must be a duration"),
        ("metadata_ttl = -1", "metadata_ttl must be a duration"),
        ("file_mode = 444", "file_mode must be a string"),
        ("uid = -1", "uid must be a number"),
        ("allow_other = 'yes'", "allow_other must be true or false"),
        ("log_level = 'loud'", "log_level must be one of debug, info, warning, error"),
        ("[mount]\nsource = 's3://b'", "no such key 'mount'"),
        ("source = ", "is not TOML"),
        ("region = ''", "region must be a text that is not empty"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    path = config_file(tmp_path, text)
    with pytest.raises(ExitError) as raised:
        merge([], {}, path)
    line = str(raised.value)
    assert line.startswith(str(path))
    assert said in line
    assert "\n" not in line


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExitError, match=r"there is no configuration file .*absent"):
        read_config_file(tmp_path / "absent")
    with pytest.raises(ExitError, match="cannot read"):
        read_config_file(tmp_path)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(ExitError, match="is not TOML"):
        read_config_file(tmp_path / "bytes")
    with pytest.raises(ExitError, match="too large"):
        read_config_file(Path("/dev/zero"))


def test_which_file_is_read(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    second.touch()
    assert find_config_file("/x", {"S3STREAM_FS_CONFIG": "/y"}, (second,)) == Path("/x")
    assert find_config_file(None, {"S3STREAM_FS_CONFIG": "/y"}, (second,)) == Path("/y")
    assert find_config_file(None, {}, (first, second)) == second
    first.touch()
    assert find_config_file(None, {}, (first, second)) == first
    assert find_config_file(None, {}, ()) is None


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ExitError, match="without user and password") as raised:
        merge([on_command_line("endpoint_url", "https://me:hunter2@host/")], {}, None)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["host:9000", "ftp://host", "http://", "http://host:port", "http://[::1", "http://h/?a=b"]
)
def test_no_urls(url: str) -> None:
    with pytest.raises(ExitError, match="--endpoint-url must be a URL"):
        merge([on_command_line("endpoint_url", url)], {}, None)


def test_fstab_options_are_the_same_ones() -> None:
    given = from_mount_options("ro,_netdev,nofail,x-systemd.automount,cache_size=20GiB,allow-other,path-style,nosuid,,")
    settings = merge(given, {}, None)
    assert settings["cache_size"].value == 20 * 1024**3
    assert settings["allow_other"].value is True
    assert settings["addressing"].value == "path"
    assert settings["cache_size"].origin == "-o cache-size"


def test_fstab_options_can_turn_a_switch_off() -> None:
    settings = merge(from_mount_options("allow-other=false"), {"S3STREAM_FS_ALLOW_OTHER": "true"}, None)
    assert settings["allow_other"].value is False


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rw", "read-only"),
        ("cache-sise=1", "did you mean cache-size"),
        ("cache-size", "-o cache-size needs a value"),
        ("source=s3://b", "no such option"),
        ("allow_other=maybe", "must be true or false"),
    ],
)
def test_wrong_fstab_options(text: str, said: str) -> None:
    with pytest.raises(ExitError) as raised:
        merge(from_mount_options(text), {}, None)
    assert said in str(raised.value)


@given(st.text(), st.sampled_from(OPTIONS))
def test_any_text_is_a_value_or_one_line(text: str, option: Option) -> None:
    try:
        settings = merge([Given(option, text, "here")], {}, None)
    except ExitError as error:
        told = str(error)
    else:
        told = ""
        assert len(settings) == len(OPTIONS)
    assert "\n" not in told
