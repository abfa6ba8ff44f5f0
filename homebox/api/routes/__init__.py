"""The routes, one file for each family of endpoints; each has a function `add`."""

from homebox.api.routes import chat, embeddings, feedback, health, models, tokens

FAMILIES = (chat, models, embeddings, tokens, feedback, health)
