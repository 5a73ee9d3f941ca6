"""Exit codes and the variable shared by a command and its starter. Imports nothing, so starting needs no torch."""

DONE, BAD_INPUT, INTERRUPTED, FAILED = 0, 2, 75, 1  # exit codes
TRY = "DIRA_SCALE_TRY"  # variable with the name of a sweep's try, which status.json repeats
