"""The report of a run or of several: one page that holds everything it shows."""
