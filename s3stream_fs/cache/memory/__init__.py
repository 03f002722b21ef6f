"""The memory tier: parts, and the one budget for bytes in memory."""
