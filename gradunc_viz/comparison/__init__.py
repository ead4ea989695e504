"""From a network and a set of frames to the table of all scores that a paper needs."""
