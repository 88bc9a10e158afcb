"""A share of successes, and how sure it is."""

from math import sqrt

Z95 = 1.959963984540054
"""Of the normal distribution, for 95%."""


def wilson(successes: int, trials: int, z: float = Z95) -> tuple[float, float]:
    """Confidence interval of a proportion (Wilson 1927): never outside 0 to 1, and of some width also at 0 and 1.

    Without trials it is all of 0 to 1.
    """
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    spread = z * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    middle, scale = share + z * z / (2 * trials), 1 + z * z / trials
    # Rounding must not put the share itself outside.
    return max(0.0, min(share, (middle - spread) / scale)), min(1.0, max(share, (middle + spread) / scale))
