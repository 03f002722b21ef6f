"""Every test of this folder runs over both bindings: what a mount means does not depend on who speaks to the kernel."""

from __future__ import annotations

import pytest

from conftest import Mounted
from mounting import Mount, Option, Server


@pytest.fixture(params=["native", "pyfuse3"])
def binding(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def mounted(mounted: Mounted, binding: str) -> Mounted:
    """As elsewhere, by the binding of this run."""

    def mount(server: Server, bucket: str, prefix: str = "", **options: Option) -> Mount:
        return mounted(server, bucket, prefix, **{"binding": binding, **options})

    return mount
