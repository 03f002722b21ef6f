"""The kernel's door. One module per FUSE binding, each a thin adapter over FileSystem: translate, call, translate."""

from typing import Final

SUBTYPE: Final = "s3stream"
"""Mount tables show our mounts as file systems of the type ``fuse.s3stream``."""
