"""Visual words: the same place in similar patients, cut out of volumes as a dataset with a label."""
