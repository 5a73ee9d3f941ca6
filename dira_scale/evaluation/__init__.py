"""What evaluating commands share: features, trained networks, windows, the leak check, comparisons of runs."""
