"""What is measured, each figure as a ratio against a floor or a peer in the same run. See README.md."""
