"""Gated networks: how gates are put into a model, what they save, and what their codes say."""
