"""Several processes here, measured; many GPUs, simulated."""
