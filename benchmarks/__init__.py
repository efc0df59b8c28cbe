"""What asyncflow is measured by, side by side with what it is measured against.

    python -m benchmarks                      everything, a few minutes
    python -m benchmarks --only chain layers  some measures; --list names them all
    python -m benchmarks --quick              small sizes: does it still run?

Both sides of a comparison run in one process, turn and turn about, and the median of five
counts, so that what else the machine does meets both alike.
"""
