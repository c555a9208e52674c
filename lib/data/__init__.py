"""Datasets: synthetic shapes, photographs, MOVi-A and StreetHazards, and their download."""

from lib.files import DataError

__all__ = ["DataError"]
