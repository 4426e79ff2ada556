"""`python -m trainer_jobs`: make a score estimator from a model and a data set."""

import sys

from trainer_jobs.cli import main

if __name__ == "__main__":
    sys.exit(main())
