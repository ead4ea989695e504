"""One pass from frames to a cache."""
