"""Errors, configuration, storage, the machine: what all else is built of."""
