"""Pixels per bin of every score: what curves and calibration are computed from."""
