"""What is written: HTML pages of one file each, which need no network."""
