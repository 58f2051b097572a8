"""SCIENCE 3.1: do FullFT and high ranks coincide, and where do low ranks leave the common curve?"""
