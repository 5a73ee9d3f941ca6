"""Trains a task: stages, steps, strategies, optimizers, checkpoints."""
