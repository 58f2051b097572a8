"""Records turned into charts, pages and tables. It reads records only: no training code, no torch.

Altair is imported when a figure is first drawn, so that writing a page is all that waits for it.
"""
