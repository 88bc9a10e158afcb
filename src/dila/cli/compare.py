"""``dila compare``."""

from dila.recipes.compare import main

__all__ = ["main"]
