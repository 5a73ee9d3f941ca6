"""A fine-tuned network on images: probabilities of labels, masks in the geometry of their sources."""
