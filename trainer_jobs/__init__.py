"""Offline jobs that make estimators, and the bundled model, with the code that serves them."""
