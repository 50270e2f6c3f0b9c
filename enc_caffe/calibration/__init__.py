"""Factors that look at images: moments, solvers over whole networks, statistics put right."""
