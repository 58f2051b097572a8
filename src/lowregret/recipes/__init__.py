"""Commented TOML files for everyday jobs and for the questions of the post; `lowregret recipes` lists them."""
