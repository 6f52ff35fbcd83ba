"""Scripts that measure what the course says about speed, memory and accuracy."""
