"""What every task that trains on sharded datasets shares: configuration, schedule, inputs, validation."""
