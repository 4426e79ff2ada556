"""Offline jobs that make estimators, with the very task and feature code that serves them."""
