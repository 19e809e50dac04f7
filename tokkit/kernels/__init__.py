"""Loops over arrays, compiled by Numba: arrays in, arrays out, no files, no checks, no exceptions."""
