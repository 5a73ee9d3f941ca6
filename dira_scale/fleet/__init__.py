"""Runs before they are made, and on many machines."""
