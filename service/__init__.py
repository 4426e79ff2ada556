"""The attribution server: HTTP over one language model and its score estimators.

Order of reading: settings → schemas → records → engine → routes → app.
"""
