"""Kernels that make, mask and batch instances."""
