"""Shared parts of evaluating commands: features, trained networks, windows, the leak check, comparisons of runs."""
