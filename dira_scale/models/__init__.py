"""Networks: encoder, U-Net, heads, discriminator, and BatchNorm over groups of the global batch."""
