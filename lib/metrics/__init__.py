"""Measures. Pure functions on arrays; everything is in 0..1 unless it says otherwise."""
