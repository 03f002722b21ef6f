"""The kernel's door. One module per FUSE binding, each a thin adapter over FileSystem: translate, call, translate."""

from __future__ import annotations

from typing import Final, Protocol

SUBTYPE: Final = "s3stream"
"""Mount tables show our mounts as file systems of the type ``fuse.s3stream``."""


class Session(Protocol):
    """One mount, as long as it is mounted."""

    async def serve(self) -> None:
        """Answer the kernel until somebody unmounts. Raises UsageError where the two do not come together.

        Cancelling it leaves the requests that it was handling unanswered; taking the mount down then fails them.
        """

    async def wait_ready(self) -> None:
        """Return once kernel and binding have agreed on everything, and the mount can be used."""

    def statistics(self) -> object:
        """A frozen dataclass with plain values."""
