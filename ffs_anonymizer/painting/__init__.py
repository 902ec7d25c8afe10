"""What takes the place of a face or plate."""
