"""Files: atomic writes, manifests, CheckpointError."""
