"""Trains any task: stages, steps, checkpoints, and every way in which a run ends. It knows no method and no image."""
