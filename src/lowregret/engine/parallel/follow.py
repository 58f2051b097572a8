"""The program of every rank but the first, on one machine."""

from lowregret.engine.parallel.launch import follow

if __name__ == "__main__":
    follow()
