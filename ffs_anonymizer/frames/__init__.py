"""Images in any encoding, decoded and encoded again."""
