"""Where the groups of a study are trained: in this process, or in several on this machine."""
