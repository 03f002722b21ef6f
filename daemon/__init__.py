"""The command ``s3stream-fs``: all that owns a process.

argv, configuration files, environment, signals, fork, listening sockets, log handlers, exit codes, mount and unmount
live here and nowhere else. What can run in somebody else's event loop lives in ``s3stream_fs``.
"""
