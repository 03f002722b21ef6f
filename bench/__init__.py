"""Benchmarks: a simulated S3, the mounts that compete, the loads that measure them. Run by scripts/bench."""
