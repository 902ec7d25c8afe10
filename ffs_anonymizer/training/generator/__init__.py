"""How the face generator is trained."""
