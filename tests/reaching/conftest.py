"""How a store is reached, on real mounts: what the user sets, and what both planes then do. One binding is enough."""

from __future__ import annotations

from typing import Any

import pytest

from conftest import Mounted
from mounting import Mount, Server


@pytest.fixture
def mounted(mounted: Mounted) -> Mounted:
    """As elsewhere, and what cannot be read is told soon."""

    def mount(server: Server, bucket: str, **options: Any) -> Mount:
        return mounted(server, bucket, **{"read_deadline": "10s", **options})

    return mount
