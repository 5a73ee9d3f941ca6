"""Crops/s of volumes by our loader, nnU-Net's reader, MONAI, medrs and torchio, one core each, in one run."""
