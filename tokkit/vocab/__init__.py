"""Vocabularies: training, loading, saving and telling tokenizers apart."""
