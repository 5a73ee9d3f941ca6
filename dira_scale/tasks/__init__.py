"""What is learned from labels: targets, losses, scores, rows of cases and their figures."""
