from __future__ import annotations

import pytest

from s3stream_daemon.reclaim import waits_for_itself


@pytest.mark.parametrize(
    ("release", "waits"),
    [
        ("5.4.0-150-generic", False),
        ("6.8.12", False),
        ("6.9", True),
        ("6.12.57+deb13-amd64", True),
        ("6.18.2", True),
        ("6.18.3", False),
        ("6.18.44-custom", False),
        ("7.1.0-rc1", False),
        ("unknown", True),
    ],
)
def test_kernels_that_may_make_a_process_wait_for_its_own_mount(release: str, waits: bool) -> None:
    assert waits_for_itself(release) is waits
