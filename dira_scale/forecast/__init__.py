"""What a run will need, computed beforehand: memory, traffic, time, cost. No data, no weights, no processes."""
