"""Self-supervised pretraining as a task of the engine."""
