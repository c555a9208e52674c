"""Networks. Models never import data."""
