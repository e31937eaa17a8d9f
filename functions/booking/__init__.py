"""The booking task: the only way to hold, sell and give back tickets."""
