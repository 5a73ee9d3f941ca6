"""Who takes part: each function offers its contenders for a case, or says in a UserError why it has none."""
