"""How the bundled model is made: a generated world, a tokenizer, a network, a training loop.

Nothing here runs when the model is served. `python -m trainer_jobs.bundled train` repeats the
training from a fixed seed; see `docs/bundled_model.md` for the figures it reached.
"""
