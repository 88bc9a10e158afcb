"""Textbook blocks that know nothing of the paper."""
