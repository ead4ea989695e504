"""A network with its scores outside of a cache: one module, a stream."""
