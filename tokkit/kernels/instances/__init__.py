"""Kernels that make, mask and lay out instances."""
