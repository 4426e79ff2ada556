"""What training a score estimator is made of; `at2.training.trainer` puts it together.

Order of reading: `shards` is the record on disk, `manifest` and `settings` what it depends on, and
`run` the folders of a run. `make_shards` makes those of the first two stages, by `responses` and
`compute`; `train` is the third, by `fit`. `table` is what it reads, `heldout` judges it, and
`record` keeps it. `job_shares` is for code written for the published package.
"""
