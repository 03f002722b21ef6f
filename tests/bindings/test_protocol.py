"""Our structures and the kernel's header."""

from __future__ import annotations

import subprocess
from pathlib import Path
from struct import Struct

import pytest

from s3stream_fs.bindings.native import backing, protocol
from s3stream_fs.bindings.native.protocol import Init, Notify, Opcode, Open

WHOLE = {
    "fuse_in_header": protocol.IN_HEADER,
    "fuse_out_header": protocol.OUT_HEADER,
    "fuse_init_in": protocol.INIT_IN_EXT,
    "fuse_init_out": protocol.INIT_OUT,
    "fuse_attr": protocol.ATTR,
    "fuse_forget_in": protocol.FORGET_IN,
    "fuse_batch_forget_in": protocol.BATCH_FORGET_IN,
    "fuse_forget_one": protocol.FORGET_ONE,
    "fuse_open_out": protocol.OPEN_OUT,
    "fuse_release_in": protocol.RELEASE_IN,
    "fuse_read_in": protocol.READ_IN,
    "fuse_getxattr_in": protocol.GETXATTR_IN,
    "fuse_getxattr_out": protocol.GETXATTR_OUT,
    "fuse_statfs_out": protocol.STATFS_OUT,
    "fuse_interrupt_in": protocol.INTERRUPT_IN,
}
"""By name in the header; those that a kernel of 5.4 has too."""

FRONTS = {
    ("fuse_entry_out", "attr"): protocol.ENTRY_OUT,
    ("fuse_attr_out", "attr"): protocol.ATTR_OUT,
    ("fuse_dirent", "name"): protocol.DIRENT,
}
"""Structures that we declare up to a member."""


def asked_of_the_header(folder: Path, expressions: list[str]) -> list[int]:
    """What a C compiler makes of the expressions, with <linux/fuse.h>."""
    source = folder / "ask.c"
    prints = "".join(f'printf("%llu\\n", (unsigned long long)({one}));' for one in expressions)
    headers = "".join(f"#include <{name}>\n" for name in ("stddef.h", "stdio.h", "linux/fuse.h", "sys/ioctl.h"))
    source.write_text(f"{headers}int main(void) {{ {prints} return 0; }}\n")
    program = folder / "ask"
    subprocess.run(["gcc", "-o", program, source], check=True)
    done = subprocess.run([program], check=True, capture_output=True, text=True)
    return [int(line) for line in done.stdout.split()]


def test_structures_have_the_size_that_the_kernel_gives_them(tmp_path: Path) -> None:
    expressions = [f"sizeof(struct {name})" for name in WHOLE]
    expressions += [f"offsetof(struct {name}, {member})" for name, member in FRONTS]
    sizes = asked_of_the_header(tmp_path, expressions)
    ours: list[Struct] = [*WHOLE.values(), *FRONTS.values()]
    assert dict(zip(expressions, sizes, strict=True)) == dict(zip(expressions, [one.size for one in ours], strict=True))


def test_fields_lie_where_the_kernel_has_them(tmp_path: Path) -> None:
    numbers = {
        ("fuse_init_out", protocol.INIT_OUT): ("max_background", "max_write", "max_pages", "flags2"),
        ("fuse_attr", protocol.ATTR): ("size", "mtime", "mode", "nlink", "blksize"),
        ("fuse_read_in", protocol.READ_IN): ("offset", "size"),
        ("fuse_statfs_out", protocol.STATFS_OUT): ("st.bsize", "st.namelen", "st.frsize"),
    }
    places = {
        "max_background": 4, "max_write": 6, "max_pages": 8, "flags2": 10,
        "size": 1, "mtime": 4, "mode": 9, "nlink": 10, "blksize": 14,
        "offset": 1, "st.bsize": 5, "st.namelen": 6, "st.frsize": 7,
    }  # fmt: skip
    expressions = [f"offsetof(struct {name}, {field})" for (name, _), fields in numbers.items() for field in fields]
    found = iter(asked_of_the_header(tmp_path, expressions))
    for (name, layout), fields in numbers.items():
        for field in fields:
            place = 2 if (name, field) == ("fuse_read_in", "size") else places[field]
            values = [0] * len(layout.unpack(bytes(layout.size)))
            values[place] = 1
            assert layout.pack(*values).index(1) == next(found), f"{name}.{field}"


def test_numbers_are_the_kernels(tmp_path: Path) -> None:
    since_7_38 = {Opcode.STATX}  # newer than the header of this distribution
    expected = {f"FUSE_{one.name}": int(one) for one in Opcode if one not in since_7_38}
    expected |= {f"FUSE_{one.name}": int(one) for one in Init if one is not Init.PASSTHROUGH}
    expected |= {f"FOPEN_{one.name}": int(one) for one in Open if one is not Open.PASSTHROUGH}
    expected |= {f"FUSE_NOTIFY_{one.name}": int(one) for one in Notify}
    assert asked_of_the_header(tmp_path, list(expected)) == list(expected.values())


def test_ioctls_have_the_number_that_a_compiler_gives_them(tmp_path: Path) -> None:
    header = "_IOC(_IOC_WRITE, FUSE_DEV_IOC_MAGIC, {}, {})"
    expressions = [header.format(1, 16), header.format(2, 4)]
    assert asked_of_the_header(tmp_path, expressions) == [backing._BACKING_OPEN, backing._BACKING_CLOSE]


@pytest.mark.parametrize(("nbytes", "wanted"), [(0, 0), (1, 8), (8, 8), (9, 16), (24 + 255, 280)])
def test_records_are_padded_to_eight_bytes(nbytes: int, wanted: int) -> None:
    assert protocol.padded(nbytes) == wanted
