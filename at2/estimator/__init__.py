"""The linear score estimator: its features, its weights, its files, and the model it belongs to."""
