"""The evidence page (under way)."""
