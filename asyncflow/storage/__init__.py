"""What is kept on disk: journals of runs, large values, the run lock."""
