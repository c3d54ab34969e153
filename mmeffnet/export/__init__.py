"""Classifiers as files that need neither mmeffnet nor MMEngine: written, checked, run."""
