"""A census of Python's standard library: lines, functions and imports, in charts.

    python -m examples.census                       writes ./census-report/
    python -m examples.census --quick --out somewhere
    asyncflow run examples/census/pipeline.py:pipeline --input quick=true

Every file of the standard library on this machine is read, counted and parsed, package by
package and side by side; a group of steps adds everything up, draws the charts and writes the
report. :mod:`examples.census.pipeline` is the part to read.
"""
