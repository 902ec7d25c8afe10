"""Where faces and plates are, from frame to frame."""
