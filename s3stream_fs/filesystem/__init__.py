"""What the mount means, in this package's own types: no FUSE, no binding, no S3 client in here."""
