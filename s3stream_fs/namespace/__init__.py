"""Names: what keys look like as a tree, what a directory holds, and which inode stands for what."""
