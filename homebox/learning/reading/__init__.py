"""One message of the owner -> what it claims."""
