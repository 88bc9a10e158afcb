"""The command ``dila``: thin verbs over the Python calls."""
