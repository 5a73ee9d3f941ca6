"""Images/s of every loader of ours against what others use, on the same radiographs, in one run."""
