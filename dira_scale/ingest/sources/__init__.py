"""One file per layout of a dataset; each yields SourceRecords, and nothing else knows the layout's quirks."""
