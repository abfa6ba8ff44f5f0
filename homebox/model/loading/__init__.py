"""A model's files as weights in homebox's names, with configuration and tokenizer."""
