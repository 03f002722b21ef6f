"""The layer order, and which foreign world has its door where."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]

FLOORS: Final = {
    "s3stream_fs": frozenset[str](),
    "s3stream_fs.types": frozenset[str](),
    "s3stream_fs.errors": frozenset[str](),
    "s3stream_fs.statistics": frozenset[str](),
    "s3stream_fs.ranges": frozenset({"types"}),
    "s3stream_fs.store": frozenset({"types", "errors"}),
    "s3stream_fs.cache": frozenset({"store", "ranges", "types", "errors"}),
    "s3stream_fs.namespace": frozenset({"cache", "store", "types", "errors"}),
    "s3stream_fs.fetch": frozenset({"cache", "store", "ranges", "types", "errors"}),
    "s3stream_fs.reading": frozenset({"fetch", "cache", "store", "types", "errors"}),
    "s3stream_fs.filesystem": frozenset({"reading", "namespace", "fetch", "cache", "store", "types", "errors"}),
    "s3stream_fs.bindings": frozenset(
        {"filesystem", "reading", "namespace", "fetch", "cache", "store", "types", "errors"}
    ),
}
"""What each floor may import of the others. The daemon may import everything; nothing may import the daemon."""

STORE: Final = "s3stream_fs.store"
BINDINGS: Final = "s3stream_fs.bindings"
DAEMON: Final = "s3stream_daemon"

DOORS: Final = {
    "pyfuse3": BINDINGS,
    "aiobotocore": STORE,
    "asyncio": STORE,
    "boto3": STORE,
    "botocore": STORE,
    "httpx2": STORE,
    "obstore": STORE,
    "argparse": DAEMON,
    "signal": DAEMON,
}
"""Modules of foreign worlds, and the one floor that may import each."""

PROCESS: Final = frozenset(
    {
        "sys.argv",
        "sys.exit",
        "sys.stdin",
        "sys.stdout",
        "sys.stderr",
        "os.environ",
        "os.environb",
        "os.getenv",
        "os.putenv",
        "os.fork",
        "os.forkpty",
        "os.setsid",
        "os._exit",
        "os.kill",
        "os.chdir",
        "os.umask",
        "trio.run",
        "trio.open_signal_receiver",
        "logging.basicConfig",
    }
)
"""Names that touch the process, which belongs to the daemon."""

ROOMS: Final = ("s3stream_fs.store.s3", "s3stream_fs.store.snapshot")
"""Each kind of store has a room of its own."""

DOORS_OF_ROOMS: Final = frozenset({"s3stream_fs.store.s3.config"})
"""What others may import of a room at any time: what the user says of a store. The rest is for ``store.rooms``, and a
snapshot, which has no scheme, for the daemon."""

NO_NOUNS: Final = frozenset({"utils", "util", "helpers", "common", "manager", "misc"})


@dataclass(frozen=True, slots=True)
class Module:
    """One source file, under its import name."""

    name: str
    tree: ast.Module

    @property
    def floor(self) -> str:
        return DAEMON if self.name.split(".")[0] == DAEMON else ".".join(self.name.split(".")[:2])


def modules() -> list[Module]:
    found = []
    for package, folder in (("s3stream_fs", ROOT / "s3stream_fs"), (DAEMON, ROOT / "daemon")):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *(part for part in parts if part != "__init__")))
            found.append(Module(name, ast.parse(path.read_text(), str(path))))
    return found


def imports(module: Module) -> Iterator[str]:
    """All that ``module`` imports, also within functions and for types only."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.name}, line {node.lineno}: a relative import"
            # `from a import b` may name the module a.b as well as a name in a.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def process_names(module: Module) -> Iterator[str]:
    """The names of PROCESS that ``module`` uses, however imported."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Name):
            yield f"builtins.{node.id}"


def violations(module: Module) -> list[str]:
    """What ``module`` may not do on its floor, in words."""
    found = []
    for imported in imports(module):
        top, _, rest = imported.partition(".")
        if top == "s3stream_fs" and module.floor != DAEMON:
            target = rest.partition(".")[0]
            is_floor = f"s3stream_fs.{target}" in FLOORS
            same = f"s3stream_fs.{target}" == module.floor
            if is_floor and not same and target not in FLOORS.get(module.floor, frozenset()):
                found.append(f"{module.name} imports {imported}, which is not below it")
        elif top == DAEMON and module.floor != DAEMON:
            found.append(f"{module.name} imports the daemon ({imported})")
        for room in ROOMS:
            inside = imported.startswith(f"{room}.") and not module.name.startswith(room)
            is_door = any(imported == door or imported.startswith(f"{door}.") for door in DOORS_OF_ROOMS)
            if inside and not is_door and not (room.endswith("snapshot") and module.floor == DAEMON):
                found.append(f"{module.name} imports {imported}, past the door of the room")
        if DOORS.get(top, module.floor) != module.floor:
            found.append(f"{module.name} imports {imported}, whose door is {DOORS[top]}")
    if module.floor != DAEMON:
        found += [f"{module.name} uses {name}" for name in process_names(module) if name in PROCESS]
        found += [f"{module.name} prints" for name in process_names(module) if name == "builtins.print"]
    return found


ALL_MODULES: Final = modules()
EVERY_MODULE: Final = pytest.mark.parametrize("module", ALL_MODULES, ids=lambda module: module.name)


@EVERY_MODULE
def test_imports_go_down_and_foreign_worlds_have_one_door(module: Module) -> None:
    assert violations(module) == []


@EVERY_MODULE
def test_every_module_has_a_floor_and_is_one_noun(module: Module) -> None:
    assert module.floor == DAEMON or module.floor in FLOORS, "put the new floor into FLOORS, where it belongs"
    assert not NO_NOUNS & set(module.name.split("."))
    assert ast.get_docstring(module.tree) or not module.tree.body, "a module's docstring says what it owns"


@pytest.mark.parametrize(
    ("name", "source", "fault"),
    [
        ("s3stream_fs.cache.memory", "from s3stream_fs.fetch.queue import Queue", "not below"),
        ("s3stream_fs.namespace.tree", "from s3stream_fs import fetch", "not below"),
        ("s3stream_fs.fetch.queue", "import s3stream_fs.namespace.tree", "not below"),
        ("s3stream_fs.types", "def f():\n    from s3stream_fs.errors import NotFound", "not below"),
        ("s3stream_fs.store.s3.store", "import s3stream_daemon.config", "imports the daemon"),
        ("s3stream_fs.reading.reader", "import asyncio", "whose door is"),
        ("s3stream_daemon.serve", "from s3stream_fs.store.s3.store import S3Store", "past the door"),
        ("s3stream_fs.store.snapshot.store", "from s3stream_fs.store.s3.page import written", "past the door"),
        ("s3stream_daemon.serve", "import pyfuse3", "whose door is"),
        ("s3stream_daemon.serve", "from obstore.store import S3Store", "whose door is"),
        ("s3stream_fs.store.s3.store", "import os\nx = os.environ['A']", "uses os.environ"),
        ("s3stream_fs.store.s3.store", "from os import environ", "uses os.environ"),
        ("s3stream_fs.bindings.pyfuse3_binding", "import sys\nsys.exit(1)", "uses sys.exit"),
        ("s3stream_fs.filesystem", "import signal", "whose door is"),
        ("s3stream_fs.filesystem", "print(1)", "prints"),
    ],
)
def test_a_violation_is_seen(name: str, source: str, fault: str) -> None:
    (found,) = violations(Module(name, ast.parse(source)))
    assert re.search(fault, found)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("s3stream_fs.reading.reader", "from s3stream_fs.fetch.fetcher import Fetcher"),
        ("s3stream_fs.store.s3.store", "import asyncio\nfrom s3stream_fs.errors import NotFound"),
        ("s3stream_fs.fetch.fetcher", "from s3stream_fs.fetch.queue import Queue"),
        ("s3stream_daemon.serve", "import os, signal\nfrom s3stream_fs.bindings import pyfuse3_binding\nos.fork()"),
        ("s3stream_fs.cache", "from s3stream_fs import __version__"),
    ],
)
def test_what_is_allowed_is_allowed(name: str, source: str) -> None:
    assert violations(Module(name, ast.parse(source))) == []
