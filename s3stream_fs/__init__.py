"""s3stream-fs: an S3 bucket as a read-only POSIX tree that feeds training jobs.

This package is what can run inside somebody else's event loop without touching the process: no argv, no environment,
no signals, no fork, no log handlers. Those belong to ``s3stream_daemon`` (the folder ``daemon/``), which imports from
here and never the other way round.
"""

__version__ = "0.1.0"
