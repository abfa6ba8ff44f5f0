"""What people look at: the machine's roof, a kernel's demand, tables, pictures."""
