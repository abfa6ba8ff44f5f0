"""The same regions for work-groups with barriers."""
