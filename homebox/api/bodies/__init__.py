"""The bodies of endpoints that are not OpenAI's chat, turned into its requests."""
