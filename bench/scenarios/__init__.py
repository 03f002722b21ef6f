"""What is measured. One module for each family of loads; ``registry`` holds them all."""
