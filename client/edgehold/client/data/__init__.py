"""Reference data sets as tasks, and ways to split data over devices."""
