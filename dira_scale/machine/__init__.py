"""What a machine has, hardware and software; worker processes and progress bars on it."""
