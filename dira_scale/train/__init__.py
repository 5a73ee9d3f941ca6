"""Shared parts of tasks that train on sharded datasets: configuration, schedule, inputs, validation."""
