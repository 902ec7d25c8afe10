"""A detector of our own: its network, what it is taught, training and export."""
