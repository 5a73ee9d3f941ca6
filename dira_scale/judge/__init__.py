"""Tasks, evaluation and pages: how a run is judged."""
