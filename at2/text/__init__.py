"""Text and tokens: chat templates, encoding, decoding, sentences, and which characters belong to
which tokens. Knows no model and no task."""
