"""The whole loop on a temporary state: tell, learn, ask without any hint, roll back."""
