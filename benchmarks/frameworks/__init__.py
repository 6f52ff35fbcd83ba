"""The same fits in NumPyro, Pyro and PyMC."""
