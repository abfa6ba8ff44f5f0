"""One running answer: the choice of tokens, and when it ends."""
