"""SCIENCE 3.10: which changes of alpha, init and rates leave a training as it was?"""
