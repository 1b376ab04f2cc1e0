"""Causal, masked and prefix language models with one sharded training step."""
