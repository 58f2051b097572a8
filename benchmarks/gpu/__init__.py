"""What the engine does on a GPU, and how fast: `python -m benchmarks.gpu`, ten minutes on one card, nothing fetched.

Bases are drawn from published configurations, so that speed and memory are those of the models and no weight is needed.

    __main__   the command line                  laws               in bfloat16: packed = alone, merged = unmerged …
    card       the device, its peak, its waits   ours, peft_loop    the contenders
    drawn      bases and rows                    constants          what the plan assumes of a GPU, measured
    page       the table
"""
