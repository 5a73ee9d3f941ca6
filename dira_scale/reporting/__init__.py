"""One page about a run: what the run folder says (record), its figures (summary), its curves (plots), the page."""
