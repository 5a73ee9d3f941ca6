"""What is learned from labels and masks: targets, losses, scores, rows of cases and their figures."""
