"""Distributed, large-scale, self-supervised pretraining on medical images."""

__version__ = "0.1.0"
