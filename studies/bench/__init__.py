"""Measuring what a computation takes."""
