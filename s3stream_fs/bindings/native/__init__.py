"""A binding that speaks the kernel's FUSE protocol itself: nothing to compile, and the kernel asks less.

::

    server         reads requests, writes replies, has tasks for what waits
    operations     one handler per operation: decode, one call of the FileSystem, encode
    directories    listings cut into replies
    replies        what the FileSystem says, laid out for the kernel
    negotiation    INIT
    protocol       structures, operations and flags
"""
