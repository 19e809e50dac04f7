"""Kernels that turn text into token ids."""
