"""Manifests from values: pure, a fresh mapping for every place, nothing edited after the literal."""
