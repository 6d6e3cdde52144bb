"""Coverage-guided fuzzing of what strangers write: records, settings, addresses, questions.

A target is a module with `check(data)`, which raises when the code under test does what it must not, and `TOKENS`,
words that its inputs are made of. Targets import nothing of the fuzzer: the seeds in `tests/data/fuzz` are checked on
every platform, by `tests/unit/project/test_fuzz_seeds.py`.
"""
