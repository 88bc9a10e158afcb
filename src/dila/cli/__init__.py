"""The command ``dila``: a thin layer over the Python API, one module per verb."""
