"""Score maps that others computed, and the benchmark's form of submissions."""
