"""The same fits and models in several frameworks."""
