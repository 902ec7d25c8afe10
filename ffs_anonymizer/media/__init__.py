"""The command `media`: images and videos in, the same without faces and plates out."""
