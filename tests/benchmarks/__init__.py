"""What Runfold costs, measured: `python -m tests.benchmarks`. Ratios from one interleaved run, never bare figures."""
