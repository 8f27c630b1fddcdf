"""What the programs at the top level call; the only place that knows Hydra."""
