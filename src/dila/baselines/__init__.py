"""The latent action models that DiLA is compared with, with the same interface; see docs/baselines.md."""
