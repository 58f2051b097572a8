"""SCIENCE 3.6 and 3.13: on a sparse base, where does the adapter go, and how is its rank divided?"""
