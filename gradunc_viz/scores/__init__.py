"""From a forward pass to maps of scores."""
