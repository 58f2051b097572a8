"""SCIENCE 3.4: at one rate, are the curves of all ranks the same at first?"""
