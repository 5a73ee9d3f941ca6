"""Finished datasets: verify, audit, describe, subset, merge, convert."""
