"""How a score and a class look, on the page and on paper alike."""
