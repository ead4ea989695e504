"""One file for each source of networks, each with the function that its loader names."""
