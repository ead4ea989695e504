"""Networks, their last layer, and what runs them."""
