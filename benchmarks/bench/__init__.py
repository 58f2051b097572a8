"""Side by side with PEFT, TRL and transformers on equal work: `make bench` measures, and writes one table.

Every contender is a process of its own that does one timed repeat when told and sleeps otherwise, so that they take
turns on a machine that is theirs, and each has its own peak of memory.

    __main__   the command line                  sft, full, rank, pack, sampling, memory, demo   one file a figure
    children   starts contenders, takes turns    peers, ours, matmul    the contenders, run by worker
    settings   which of a peer's settings is its fastest here
    results    raw numbers, so that a stopped run goes on              table    the page written from them
    work       how many multiply-adds a step cannot do without
"""
