"""Names that lie on a disk that hangs, as a kernel meets them: whoever goes by a path is served.

In this process, where memory for names can be scarce.
"""

from __future__ import annotations

import os
from pathlib import Path

import trio

from filesystems import Rig, run_filesystem
from s3stream_fs.bindings import native_binding, pyfuse3_binding
from s3stream_fs.bindings.device import MountOptions
from s3stream_fs.bindings.native.opening import Opening, OpenMode
from scratches import HangingScratch

NDIRECTORIES, NFILES = 20, 300


def test_a_path_leads_to_its_file_though_the_disk_of_names_hangs(tmp_path: Path, binding: str) -> None:
    for folder in ("cache", "names", "mount"):
        (tmp_path / folder).mkdir()
    mountpoint = tmp_path / "mount"
    scratch = HangingScratch(tmp_path / "names")
    paths = [mountpoint / f"{number:02}" for number in range(NDIRECTORIES)]

    def walk() -> None:
        for path in paths:
            assert len(list(os.scandir(path))) == NFILES
            assert (path / "000").stat().st_size == 5

    def read(path: Path) -> None:
        assert (path / "001").read_bytes() == b"bytes"
        assert (path / "000").stat().st_size == 5
        assert len(os.listdir(path)) == NFILES

    async def case(rig: Rig) -> None:
        for path in paths:
            for file in range(NFILES):
                rig.store.put(f"{path.name}/{file:03}", b"bytes")
        options = MountOptions("names", allow_other=False)
        opening = Opening(OpenMode.AUTO, unasked_is_safe=False)
        if binding == "native":
            mounting = native_binding.mounted(rig.filesystem, mountpoint, options, opening, frozen=False)
        else:
            mounting = pyfuse3_binding.mounted(rig.filesystem, mountpoint, options)
        async with mounting as session, trio.open_nursery() as nursery:
            nursery.start_soon(session.serve)
            await session.wait_ready()
            with trio.fail_after(60):
                await trio.to_thread.run_sync(walk)
                while rig.shelf.statistics().nbytes_in_memory > 20_000:
                    await trio.lowlevel.checkpoint()
                scratch.reads_go_on.clear()
                scratch.writes_go_on.clear()
                began = trio.current_time()
                for path in paths:
                    await trio.to_thread.run_sync(read, path)
                assert 2 < trio.current_time() - began < 20
            scratch.answer()
            nursery.cancel_scope.cancel()

    try:
        run_filesystem(tmp_path / "cache", case, ttl=60, real_time=True, scratch=scratch, names_nbytes=20_000)
    finally:
        scratch.answer()
