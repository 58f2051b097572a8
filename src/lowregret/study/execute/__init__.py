"""Where the groups of a study are trained: in this process, in several on this machine, on a Ray cluster, by SLURM."""
