"""SCIENCE 3.6: which matrices should carry the adapter?"""
