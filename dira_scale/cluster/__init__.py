"""Sweeps: many runs of any command, on this machine or on SLURM."""
