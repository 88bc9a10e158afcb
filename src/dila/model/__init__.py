"""The paper. Read `dila.model.dila` first."""
