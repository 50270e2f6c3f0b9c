"""Layer-wise accuracy metrics: PCA energy, measured accuracy, sampling, interpolation."""
