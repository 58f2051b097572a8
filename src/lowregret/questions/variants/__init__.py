"""SCIENCE 5: are the published variants better than plain LoRA, and which forgets least?"""
