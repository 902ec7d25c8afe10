"""How good models are, judged from outside."""
