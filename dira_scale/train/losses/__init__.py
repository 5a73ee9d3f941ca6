"""The losses of the methods: functions of tensors, for any training loop. Each is computed in fp32 at least, even under
autocast."""
