"""Configuration: Hydra's files and grammar, checked against typed schemas."""
