"""What training a score estimator is made of; `at2.training.trainer` puts it together.

Order of reading: `shards` is the record on disk and `manifest` what it depends on; `responses`,
`compute` and `fit` are the three stages; `table` is what the last one reads; `heldout` judges it.
"""
