"""Our fine-tuning and nnU-Net on the same volumes for equal minutes, in sittings of one side and one seed."""
