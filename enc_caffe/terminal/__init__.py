"""What a person sees in a terminal: bars, tables, plans."""
