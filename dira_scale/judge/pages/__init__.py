"""Pages and tables: the template that HTML pages share, figures as SVG, verdicts; the probe's; sweeps beside papers."""
