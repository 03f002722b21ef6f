"""The disk tier: a bounded cache of blocks that outlives the process."""
