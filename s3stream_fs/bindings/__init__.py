"""The kernel's door. One module per FUSE binding, each a thin adapter over FileSystem: translate, call, translate."""
