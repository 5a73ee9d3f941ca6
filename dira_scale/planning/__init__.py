"""What a run will need, found out before it: memory, traffic, time, money. No data, no weights, no processes."""
