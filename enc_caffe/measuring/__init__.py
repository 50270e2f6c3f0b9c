"""What networks give on images: scores, layers in other forms, whole plans, times; kept in the store."""
