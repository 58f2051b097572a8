"""Statistics of records: fits, intervals, regret, the verdict and its reasons. Pure, torch-free, and of no question."""
