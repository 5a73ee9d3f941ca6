"""One HTML page about a run: the run folder's content, its figures (summary), its curves (plots, health), the page."""
