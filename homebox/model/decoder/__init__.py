"""The decoder as graphs of the engine, with its cache, adapters and programs."""
