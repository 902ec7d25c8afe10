"""What every job on files goes through: what is asked, new files, what became of it."""
