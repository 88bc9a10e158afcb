"""Generic building blocks, independent of the paper."""
