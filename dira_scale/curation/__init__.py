"""Finished datasets: verify, audit, describe, cut, join, convert."""
