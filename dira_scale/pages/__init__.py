"""HTML pages: the template that they share, figures as SVG, verdicts; tables of sweeps beside the papers'."""
