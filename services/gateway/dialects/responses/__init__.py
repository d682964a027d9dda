"""OpenAI's Responses API, over the neuron's chat completions.

`request` turns a request into a `ResponsesTranslation`; `assembly` makes a response's
items and events of the neuron's chunks, for streams and whole answers alike.
"""
