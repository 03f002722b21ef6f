"""``python -m s3stream_daemon``: the same as the command ``s3stream-fs``."""

from __future__ import annotations

import sys

from s3stream_daemon.cli import main

sys.exit(main())
