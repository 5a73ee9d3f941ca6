"""The training loop and what it needs: run folder, checkpoints, parallelism, metrics, signals."""
