"""Models on this box: where they come from, under which name, and which of them fit."""
