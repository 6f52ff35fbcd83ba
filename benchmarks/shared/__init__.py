"""What several benchmarks share: models, tables, records, targets."""
