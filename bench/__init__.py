"""Speed against peers, as ratios measured alternately in one process. Never part of the tests."""
