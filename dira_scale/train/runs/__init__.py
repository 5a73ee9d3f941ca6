"""The run folder: who writes it, what is in it, its checkpoints."""
