"""Tokenizers: loading, saving, telling them apart, and encoding text with them."""
