# cython: language_level=3, boundscheck=False, wraparound=False
"""NVML, bound by dlopen: ints and strings in, ints, strings and small tuples out."""
