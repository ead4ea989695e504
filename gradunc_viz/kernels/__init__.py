"""Sums over channels and classes, as fast as the machine allows."""
