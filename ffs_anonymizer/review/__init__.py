"""What is left in an anonymized recording: a second look, a person's look, and corrections."""
