"""Uncertainty of a figure: intervals over patients, tests between runs, spread over runs and seeds."""
