"""Snapshots: a bucket's listing in a file, written, read, and shown in the store's place."""
