"""What makes the weights: the only part of the package that imports torch."""
