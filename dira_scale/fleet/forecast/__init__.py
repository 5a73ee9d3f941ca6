"""The forecast of a run: memory, traffic, time, cost. No data, no weights, no processes."""
