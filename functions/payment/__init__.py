"""The payment worker: charges each booking once, then confirms it or gives its tickets back."""
