"""Brings the databases to the shape that the services expect, at each deployment."""
