"""From reads to what must be fetched now and what should be fetched ahead."""
