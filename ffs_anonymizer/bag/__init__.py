"""The command `bag`: recordings in, the same without faces and plates out."""
