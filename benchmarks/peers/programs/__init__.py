"""The peers' programs, each run as a module by the Python of its own environment, with the job as its argument."""
