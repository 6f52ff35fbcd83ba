"""What protects a fit: checks, batches, checkpoints, draws. It knows no helpers."""
