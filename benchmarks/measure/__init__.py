"""Measurements of the code of this course, one script each."""
