"""Word and character error rates, sclite's files and bootstrap intervals."""
