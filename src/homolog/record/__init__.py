"""Files on disk: atomic writes, checksums and the run folder, the sole owner of paths."""
