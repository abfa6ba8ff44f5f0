"""Keys and values that are left by answers and used again by later ones of the same owner."""
