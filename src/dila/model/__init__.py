"""The model of the paper. Start with `dila.model.dila`."""
