"""SCIENCE 3.3: is the ratio of best rates larger in short runs?"""
