"""The weights that the package ships, and what a model file says of itself."""
