"""Reports: the paper's values and plain rows first, charts and pages after."""
