"""Shared code of the course's notebooks; import its modules one by one."""
