"""Trains any task: stages, steps, checkpoints, and every way a run ends. Knows nothing about methods or images."""
