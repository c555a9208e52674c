"""Datasets: synthetic shapes, photographs, MOVi-A and StreetHazards, and their download."""


class DataError(ValueError):
    """A file of a dataset is missing, damaged or not what it claims to be.

    The message names the file, what is wrong in it, and what to do about it.
    """
