"""What a machine has: hardware, pieces of software, and the launch command that fits it."""
