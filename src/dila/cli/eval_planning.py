"""``dila eval planning``: the paper's table 4, which is `dila plan` in a simulator."""

from dila.cli.plan import plan as planning

__all__ = ["planning"]
