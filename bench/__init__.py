"""Benchmarks. Each figure is a ratio against a floor or a peer of the same run. See README.md."""
