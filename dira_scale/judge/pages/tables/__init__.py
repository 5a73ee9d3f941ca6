"""The page of a sweep: its figures in tables, beside those of papers, each with its twin from random weights."""
