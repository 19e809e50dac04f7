"""Loops over arrays, compiled by Numba. Callers check their input; kernels check nothing."""
