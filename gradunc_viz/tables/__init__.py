"""Tables: in the terminal, in a notebook, in a paper."""
