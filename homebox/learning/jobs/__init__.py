"""Learning jobs as objects: specs, bundles, adapters of other programs."""
