"""From "these bytes are wanted" to GETs: what to ask, in which order, how much at once, and for whom."""
