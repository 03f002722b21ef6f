"""A simulated S3: fast enough not to be what limits a benchmark, as slow and as faulty as it is told to be."""
