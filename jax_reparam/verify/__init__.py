"""Scores every form of an exported model on labelled recordings."""
