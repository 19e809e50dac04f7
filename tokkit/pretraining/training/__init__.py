"""A training run: steps, checkpoints, metrics, several processes."""
