"""Learning from labels, masks and numbers: targets, losses, scores, rows of cases and their figures."""
