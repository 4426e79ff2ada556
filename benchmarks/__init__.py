"""Ratios against a peer in the same run, one module each; `make bench` prints them all."""
