"""Programs: scheduled, kept on disk, run by a pool of workers, suspended and resumed."""
