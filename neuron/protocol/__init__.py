"""What a neuron and its callers share: wire types, routes, errors, files.

Standard library and pydantic only; nothing here imports the rest of a neuron.
"""
