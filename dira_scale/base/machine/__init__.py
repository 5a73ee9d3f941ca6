"""The machine's hardware and software; worker processes and progress bars on it."""
