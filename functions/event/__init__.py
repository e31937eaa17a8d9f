"""The event function: what is on, and how many tickets of it are left."""
