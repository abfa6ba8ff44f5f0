"""The ledger -> the lessons that hold, and what the owner decides about them."""
