"""From instance folders to batches."""
