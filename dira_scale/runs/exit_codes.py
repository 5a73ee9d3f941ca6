"""Exit codes of a verb. Imports nothing: who starts a verb needs no torch."""

DONE, BAD_INPUT, INTERRUPTED, FAILED = 0, 2, 75, 1
