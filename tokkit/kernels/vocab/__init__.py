"""Kernels that count words and learn merges."""
