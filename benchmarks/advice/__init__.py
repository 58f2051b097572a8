"""What the plan advises beside what trainings then found: the standing table, `python -m benchmarks.advice`.

Every study cell and public table at hand is a row; what is off by how much is counted for each quantity.

    __main__   the command line       row        a comparison, and the summary of many
    settings   measured trials of studies, with what they ran on
    rates      learning rates         losses     method, rank and regret
    resources  memory and seconds     page       Markdown

The one call of the product for each is in `advised`.
"""
