"""What has been fetched and is kept: in memory and on disk. Passive: nothing in here ever asks a store for anything."""
