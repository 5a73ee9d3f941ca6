"""Metrics on arrays: pure functions."""
