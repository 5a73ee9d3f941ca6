"""How sure a figure is: intervals over patients, tests between runs, spread over runs and seeds."""
