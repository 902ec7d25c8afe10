"""Models in 8 and 16 bits."""
