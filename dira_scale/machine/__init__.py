"""What a machine has: hardware, software, and the launch command that fits it."""
