"""Pretraining BERT: the loader, the model, the loop, checkpoints and the export."""
