"""The identity function: accounts, passwords and the access tokens that all others verify."""
