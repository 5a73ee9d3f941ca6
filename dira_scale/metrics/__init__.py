"""Figures of arrays: pure functions."""
