"""One file per layout of a dataset; each yields Records, and nothing else knows the layout's quirks."""
