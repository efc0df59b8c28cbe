"""The graph of a pipeline: wiring, validation, order, groups, plan and drawing."""
