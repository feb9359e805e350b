"""Readers of the public raw formats that ``prepare`` turns into atomic files, one file a format."""
