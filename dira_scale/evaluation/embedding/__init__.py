"""Features of a dataset, computed once and kept in a folder."""
