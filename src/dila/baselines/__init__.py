"""The latent action models that DiLA is compared with, behind the same verbs; see docs/baselines.md."""
