"""Exit codes. A leaf, so that what must answer at once can import it."""

DIFFERS = 1
"""`verify` found something that differs, `doctor` something that is wrong."""
BROKEN_PIPE = 1
BAD_INPUT = 2
INTERRUPTED = 130
