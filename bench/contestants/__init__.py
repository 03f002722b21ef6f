"""Those that are measured: this project's mount, other mounts of S3, and a local folder as the physical limit."""
