"""SCIENCE 3.8 and 5: how many bits does a parameter hold, and does training elicit or teach?"""
