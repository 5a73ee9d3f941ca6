"""The probe: frozen features against labels."""
