"""Networks: encoder, U-Net, heads, discriminator, and the BatchNorm whose statistics follow the global batch."""
