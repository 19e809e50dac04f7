"""Verify and inspect output folders."""
