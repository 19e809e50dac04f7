"""Masking: which tokens of an instance are predicted, and what replaces them."""
