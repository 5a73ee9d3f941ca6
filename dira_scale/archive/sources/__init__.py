"""One file per dataset layout; each yields SourceRecords and hides the layout's quirks."""
