"""Metrics on arrays: pure functions; ``cases`` writes and reads the rows from which they are computed."""
