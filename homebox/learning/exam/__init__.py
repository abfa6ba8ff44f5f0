"""What a candidate is asked, and what it answers."""
