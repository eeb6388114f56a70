"""Many settings: grids, tasks, stores, executors, results."""
