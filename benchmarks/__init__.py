"""The benchmark harness: what is measured, how, against whom. `crashfold bench` and `make bench` run it.

Fixed seeds, a warm-up, several runs, medians with their spread; comparisons are ratios within one run.
"""
