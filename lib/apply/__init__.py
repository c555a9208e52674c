"""Committed models on your own data: which there are, their masks, their scores, and the same for files."""
