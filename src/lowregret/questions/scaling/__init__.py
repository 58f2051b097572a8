"""SCIENCE 3.11: which claims drift with the size of the base?"""
